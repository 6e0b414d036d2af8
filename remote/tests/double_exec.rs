//! The part of the double that executes: actions in a directory of their own, without a sandbox, and what goes wrong
//! with that.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bazel_remote_apis::build::bazel::remote::execution::v2 as api;
use bazel_remote_apis::google::longrunning as lro;
use bazel_remote_apis::google::protobuf::{Any, Empty};
use prost::Message;
use tonic::{Request, Response, Status};

use crate::double::{Answer, Ill, Many, Service, State, Verb};

/// A refusal that says when to come back, in the form the protocol has for it.
pub(crate) fn busy(ms: u64) -> Status {
    let delay = bazel_remote_apis::google::protobuf::Duration { seconds: 0, nanos: ms as i32 * 1_000_000 };
    let mut info = vec![0x0a, 0];
    let encoded = delay.encode_to_vec();
    info[1] = encoded.len() as u8;
    info.extend(encoded);
    let detail = Any { type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(), value: info };
    let code = tonic::Code::ResourceExhausted;
    let status =
        bazel_remote_apis::google::rpc::Status { code: code as i32, message: "busy".to_owned(), details: vec![detail] };
    Status::with_details(code, "busy", status.encode_to_vec().into())
}

pub(crate) fn operations(service: Service) -> lro::operations_server::OperationsServer<Service> {
    lro::operations_server::OperationsServer::new(service)
}

fn read<M: Message + Default>(state: &State, digest: Option<&api::Digest>) -> Result<M, Status> {
    let gone = || Status::failed_precondition("an input is missing");
    let bytes = state.blob(digest.ok_or_else(gone)?).ok_or_else(gone)?;
    M::decode(&bytes[..]).map_err(|e| Status::invalid_argument(e.to_string()))
}

fn sorted<'a>(what: &str, names: impl Iterator<Item = &'a str>) -> Result<(), Status> {
    let names: Vec<&str> = names.collect();
    let ordered: Vec<&str> = names.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
    if names == ordered { Ok(()) } else { Err(Status::invalid_argument(format!("{what} are not in order"))) }
}

/// Makes the input root; refuses what the protocol does not allow.
fn stage(state: &State, digest: Option<&api::Digest>, at: &Path) -> Result<(), Status> {
    let io = |e: std::io::Error| Status::internal(e.to_string());
    let dir: api::Directory = read(state, digest)?;
    std::fs::create_dir_all(at).map_err(io)?;
    sorted("files", dir.files.iter().map(|f| f.name.as_str()))?;
    sorted("directories", dir.directories.iter().map(|d| d.name.as_str()))?;
    sorted("links", dir.symlinks.iter().map(|l| l.name.as_str()))?;
    for file in &dir.files {
        let digest = file.digest.clone().unwrap_or_default();
        let bytes = state.blob(&digest).ok_or_else(|| Status::failed_precondition("an input is missing"))?;
        std::fs::write(at.join(&file.name), bytes).map_err(io)?;
        let mode = if file.is_executable { 0o755 } else { 0o644 };
        std::fs::set_permissions(at.join(&file.name), std::fs::Permissions::from_mode(mode)).map_err(io)?;
    }
    for link in &dir.symlinks {
        std::os::unix::fs::symlink(&link.target, at.join(&link.name)).map_err(io)?;
    }
    for sub in &dir.directories {
        stage(state, sub.digest.as_ref(), &at.join(&sub.name))?;
    }
    Ok(())
}

/// Takes a directory up, children after their parents.
fn gather(state: &State, at: &Path, children: &mut Vec<api::Directory>) -> api::Directory {
    let mut dir = api::Directory::default();
    let mut entries: Vec<_> = std::fs::read_dir(at).expect("it is there").flatten().collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
        let kind = entry.file_type().expect("it is there");
        if kind.is_symlink() {
            let target = std::fs::read_link(&path).expect("a link").to_string_lossy().into_owned();
            dir.symlinks.push(api::SymlinkNode { name, target, node_properties: None });
        } else if kind.is_dir() {
            let child = gather(state, &path, children);
            let digest = Some(state.digest(&child.encode_to_vec()));
            children.push(child);
            dir.directories.push(api::DirectoryNode { name, digest });
        } else {
            let file = output_file(state, &path, name.clone());
            let (digest, is_executable) = (file.digest, file.is_executable);
            dir.files.push(api::FileNode { name, digest, is_executable, node_properties: None });
        }
    }
    dir
}

fn output_file(state: &State, path: &Path, name: String) -> api::OutputFile {
    let digest = Some(state.put(std::fs::read(path).expect("readable")));
    let is_executable = path.metadata().is_ok_and(|m| m.permissions().mode() & 0o100 != 0);
    api::OutputFile { path: name, digest, is_executable, ..Default::default() }
}

/// Does what an action says.
fn run(state: &State, action: &api::Action) -> Result<api::ActionResult, Status> {
    let command: api::Command = read(state, action.command_digest.as_ref())?;
    sorted("variables", command.environment_variables.iter().map(|v| v.name.as_str()))?;
    sorted("output paths", command.output_paths.iter().map(String::as_str))?;
    let platform = action.platform.clone().unwrap_or_default();
    sorted("properties", platform.properties.iter().map(|p| p.name.as_str()))?;
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path().join("root");
    stage(state, action.input_root_digest.as_ref(), &root)?;
    for path in &command.output_paths {
        let parent = root.join(path).parent().expect("below the root").to_owned();
        std::fs::create_dir_all(parent).map_err(|e| Status::internal(e.to_string()))?;
    }
    let Some((program, arguments)) = command.arguments.split_first() else {
        return Err(Status::invalid_argument("no command"));
    };
    let mut process = Command::new(program);
    process.args(arguments).current_dir(root.join(&command.working_directory)).env_clear();
    process.envs(command.environment_variables.iter().map(|v| (&v.name, &v.value)));
    let output = process.output().map_err(|e| Status::internal(e.to_string()))?;
    let mut result = api::ActionResult { exit_code: output.status.code().unwrap_or(137), ..Default::default() };
    result.stdout_digest = Some(state.put(output.stdout));
    result.stderr_digest = Some(state.put(output.stderr));
    result.execution_metadata = Some(api::ExecutedActionMetadata { worker: "hand-1".into(), ..Default::default() });
    for path in &command.output_paths {
        let at = root.join(path);
        let Ok(kind) = at.symlink_metadata().map(|m| m.file_type()) else { continue };
        if kind.is_symlink() {
            let target = std::fs::read_link(&at).expect("a link").to_string_lossy().into_owned();
            result.output_symlinks.push(api::OutputSymlink { path: path.clone(), target, ..Default::default() });
        } else if kind.is_dir() {
            let mut children = vec![];
            let root = Some(gather(state, &at, &mut children));
            let tree_digest = Some(state.put(api::Tree { root, children }.encode_to_vec()));
            let dir = api::OutputDirectory { path: path.clone(), tree_digest, ..Default::default() };
            result.output_directories.push(dir);
        } else {
            result.output_files.push(output_file(state, &at, path.clone()));
        }
    }
    Ok(result)
}

/// What a server that is not well makes of a result.
fn spoil(state: &State, ill: Option<Ill>, result: &mut api::ActionResult) {
    let mut blobs = state.blobs.lock().expect("nobody panics here");
    let named: Vec<String> =
        result.output_files.iter().filter_map(|f| f.digest.as_ref()).map(|d| d.hash.clone()).collect();
    for hash in named {
        let Some(bytes) = blobs.get_mut(&hash).filter(|b| !b.is_empty()) else { continue };
        match ill {
            Some(Ill::Flip) => bytes[0] ^= 1,
            Some(Ill::Short) => bytes.truncate(bytes.len() / 2),
            Some(Ill::Long) => bytes.extend_from_within(..),
            Some(Ill::Gone) => drop(blobs.remove(&hash)),
            _ => {}
        }
    }
    if ill == Some(Ill::Mixed) {
        // Outputs twice, and some that nobody declared, with paths that lead outside.
        let mut more = result.output_files.clone();
        more.iter_mut().for_each(|f| f.path = format!("../../{}", f.path));
        more.extend(result.output_files.clone());
        result.output_files.extend(more);
    }
}

fn answer(response: Result<api::ExecuteResponse, Vec<u8>>) -> lro::Operation {
    let type_url = "type.googleapis.com/build.bazel.remote.execution.v2.ExecuteResponse".to_owned();
    let value = response.map_or_else(|raw| raw, |response| response.encode_to_vec());
    let result = Some(lro::operation::Result::Response(Any { type_url, value }));
    lro::Operation { name: "operations/1".to_owned(), done: true, result, metadata: None }
}

fn begun() -> lro::Operation {
    lro::Operation { name: "operations/1".to_owned(), ..Default::default() }
}

impl Service {
    /// Says at once that it began, and works beside what else is asked.
    fn execute_beside(&self, request: api::ExecuteRequest, ill: Option<Ill>) -> Many<lro::Operation> {
        let (sender, receiver) = tokio::sync::mpsc::channel(8);
        let service = self.clone();
        tokio::task::spawn_blocking(move || {
            let said = |operation| drop(sender.blocking_send(Ok(operation)));
            said(begun());
            said(begun());
            let response = service.execute_now(&request, ill).unwrap_or_else(|status| {
                let status = bazel_remote_apis::google::rpc::Status {
                    code: status.code() as i32,
                    message: status.message().to_owned(),
                    details: vec![],
                };
                api::ExecuteResponse { status: Some(status), ..Default::default() }
            });
            said(answer(Ok(response.clone())));
            said(answer(Ok(response)));
        });
        Box::pin(tokio_stream::wrappers::ReceiverStream::new(receiver))
    }

    fn execute_now(&self, request: &api::ExecuteRequest, ill: Option<Ill>) -> Result<api::ExecuteResponse, Status> {
        let state = &self.0;
        let digest = request.action_digest.clone().unwrap_or_default();
        let action: api::Action = read(state, Some(&digest))?;
        if state.setup.remembers && !request.skip_cache_lookup {
            let known = state.results.lock().expect("nobody panics here").get(&digest.hash).cloned();
            if let Some(result) = known {
                return Ok(api::ExecuteResponse { result: Some(result), cached_result: true, ..Default::default() });
            }
        }
        let mut result = run(state, &action)?;
        if state.setup.remembers || result.exit_code == 0 {
            state.results.lock().expect("nobody panics here").insert(digest.hash, result.clone());
        }
        spoil(state, ill, &mut result);
        Ok(api::ExecuteResponse { result: Some(result), ..Default::default() })
    }
}

#[tonic::async_trait]
impl api::execution_server::Execution for Service {
    type ExecuteStream = Many<lro::Operation>;
    type WaitExecutionStream = Many<lro::Operation>;

    async fn execute(&self, request: Request<api::ExecuteRequest>) -> Answer<Self::ExecuteStream> {
        let instance = request.get_ref().instance_name.clone();
        let ill = self.0.enter("Execute", Verb::Execute, &instance, &request).await?;
        let request = request.into_inner();
        let messages = match ill {
            Some(Ill::Break) => vec![Ok(begun()), Err(Status::unavailable("the connection broke"))],
            Some(Ill::Nonsense) => vec![Ok(answer(Err(vec![0xff; 40])))],
            ill => return Ok(Response::new(self.execute_beside(request, ill))),
        };
        Ok(Response::new(Box::pin(tokio_stream::iter(messages))))
    }

    async fn wait_execution(&self, request: Request<api::WaitExecutionRequest>) -> Answer<Self::WaitExecutionStream> {
        let instance = self.0.setup.instance.clone();
        self.0.enter("WaitExecution", Verb::Execute, &instance, &request).await?;
        tokio::time::sleep(Duration::from_millis(10)).await;
        let messages = vec![Ok(begun()), Err(Status::unavailable("the connection broke"))];
        Ok(Response::new(Box::pin(tokio_stream::iter(messages))))
    }
}

#[tonic::async_trait]
impl lro::operations_server::Operations for Service {
    async fn list_operations(&self, _: Request<lro::ListOperationsRequest>) -> Answer<lro::ListOperationsResponse> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn get_operation(&self, _: Request<lro::GetOperationRequest>) -> Answer<lro::Operation> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn delete_operation(&self, _: Request<lro::DeleteOperationRequest>) -> Answer<Empty> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn cancel_operation(&self, request: Request<lro::CancelOperationRequest>) -> Answer<Empty> {
        let instance = self.0.setup.instance.clone();
        self.0.enter("CancelOperation", Verb::Execute, &instance, &request).await?;
        Ok(Response::new(Empty::default()))
    }

    async fn wait_operation(&self, _: Request<lro::WaitOperationRequest>) -> Answer<lro::Operation> {
        Err(Status::unimplemented("nobody asks"))
    }
}
