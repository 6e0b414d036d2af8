//! `quipu serve`: lets others read this store over HTTP, until it is told to end.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use quipu_peer::{ServeError, ServeOptions, Server, Share};
use tokio::signal::unix::{SignalKind, signal};

use super::{Context, export, note, print};
use crate::cli::ServeArgs;
use crate::diagnose::Diagnosis;
use crate::exit::Exit;
use crate::settings::given_token;

/// Longest file with a token.
const MAX_TOKEN_BYTES: u64 = 4096;

/// Serves.
pub(super) fn serve(context: &Context, args: &ServeArgs) -> Result<Exit, Diagnosis> {
    let store = context.settings()?.open_store()?;
    let token = match &args.token_file {
        Some(path) => Some(token(&context.file(path))?),
        None => given_token()?,
    };
    let is_open = token.is_none();
    let share: Share = match args.all {
        true => Arc::new(|_, _| true),
        false => Arc::new(|store, signed| export::is_closed(store, &signed.receipt).unwrap_or(false)),
    };
    let server = Server::bind(store, args.listen, ServeOptions { token, share }).map_err(|e| refused(&e))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|e| Diagnosis::system("cannot start the runtime", &e))?;
    let served = runtime.block_on(async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let told = print(&format!("http://{}\n", server.address()));
        if told.is_err() {
            return Ok(told);
        }
        if is_open {
            note("note: everybody on this machine can read this store; `--token-file` asks for a token");
        }
        let stop = async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        server.run(stop).await.map(Ok)
    });
    // Threads that read for a client who takes nothing are not waited for.
    runtime.shutdown_background();
    served.map_err(|e: io::Error| Diagnosis::system("cannot serve", &e))??;
    Ok(Exit::Ok)
}

fn refused(error: &ServeError) -> Diagnosis {
    match error {
        ServeError::Listen { .. } => Diagnosis::system("cannot serve", error),
        ServeError::Open(_) => Diagnosis::usage(error.to_string())
            .hint("`--token-file FILE` makes one; who reads says `token-env` or `token-command` in `[remote.NAME]`"),
        _ => Diagnosis::usage(error.to_string()),
    }
}

/// The token in the file; a new one, for nobody else to read, where there is none.
fn token(path: &Path) -> Result<String, Diagnosis> {
    let failed = |e: &io::Error| Diagnosis::system(&format!("cannot use `{}`", path.display()), e);
    match fs::metadata(path) {
        Ok(meta) if meta.len() > MAX_TOKEN_BYTES => {
            return Err(Diagnosis::usage(format!("`{}` is no token: it is too large", path.display())));
        }
        Ok(_) => return fs::read_to_string(path).map(|text| text.trim().to_owned()).map_err(|e| failed(&e)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(failed(&e)),
    }
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|e| Diagnosis::usage(format!("the system gives no random numbers: {e}")))?;
    let text: String = secret.iter().map(|b| format!("{b:02x}")).collect();
    let file = fs::File::options().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| writeln!(file, "{text}")).map_err(|e| failed(&e))?;
    Ok(text)
}
