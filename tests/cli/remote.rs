//! A cache server through the command: two workspaces, two stores, one key, and a server.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

#[cfg(feature = "remote")]
use crate::kit::server::Server;

/// A machine: a home with a configuration, and a checkout.
struct Machine(tempfile::TempDir);

impl Machine {
    fn new(config: &str, key: Option<&Path>) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |rel: &str| dir.path().join(rel);
        std::fs::create_dir_all(at("config")).expect("made");
        std::fs::create_dir_all(at("ws")).expect("made");
        std::fs::write(at("config/config.toml"), config).expect("written");
        if let Some(key) = key {
            std::fs::copy(key, at("config/key")).expect("copied");
        }
        let workfile = "[task.words]\nrun = \"printf 'b a' > words\"\ninputs = []\noutputs = [\"words\"]\n\
                        [task.count]\nrun = \"wc -c < words > count\"\ninputs = [\"words\"]\noutputs = [\"count\"]\n";
        std::fs::write(at("ws/quipu.toml"), workfile).expect("written");
        Self(dir)
    }

    fn path(&self, rel: &str) -> PathBuf {
        self.0.path().join(rel)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quipu"));
        command.arg("-C").arg(self.path("ws")).arg("run").args(arguments);
        command.env("QUIPU_STORE", self.path("store")).env("QUIPU_CONFIG", self.path("config"));
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("it was built")
    }

    /// The last event of a run.
    fn summary(&self) -> String {
        let output = self.run(&["--json"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).expect("JSON is text");
        text.lines().last().expect("a summary").to_owned()
    }
}

fn config(port: u16, more: &str) -> String {
    format!("[remote.cache]\nurl = \"grpc://127.0.0.1:{port}\"\npush = true\nshare = [\"ns\", \"none\"]\n{more}")
}

#[test]
#[cfg(feature = "remote")]
fn work_done_on_one_machine_is_not_done_on_another() {
    let Some(server) = Server::start(false) else { return };
    let first = Machine::new(&config(server.port, ""), None);
    let summary = first.summary();
    assert!(summary.contains("\"ran\":2"), "{summary}");
    let second = Machine::new(&config(server.port, ""), Some(&first.path("config/key")));
    let summary = second.summary();
    assert!(summary.contains("\"ran\":0") && summary.contains("\"fetched\":2"), "{summary}");
    assert_eq!(
        std::fs::read(second.path("ws/count")).expect("placed"),
        std::fs::read(first.path("ws/count")).expect("made")
    );
    // A stranger's results are none.
    let third = Machine::new(&config(server.port, ""), None);
    let summary = third.summary();
    assert!(summary.contains("\"ran\":2") && summary.contains("\"fetched\":0"), "{summary}");
}

#[test]
#[cfg(feature = "remote")]
fn what_is_wrong_with_a_remote_is_said_before_anything_runs() {
    for (text, expected, of_remote) in [
        ("[remote.x]\nurl = \"ftp://a\"", "`ftp://a`", true),
        ("[remote.x]\nurl = \"grpc://a:1\"\ntrust = \"all\"", "unknown field `trust`", true),
        // It might have been meant to say where to work.
        ("[remotes.x]\nurl = \"grpc://a:1\"", "`remotes` means nothing here", false),
    ] {
        let machine = Machine::new(text, None);
        let output = machine.run(&[]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && told.contains(expected) && told.contains("config.toml"), "{told}");
        assert!(!machine.path("ws/count").exists());
        assert_eq!(machine.run(&["--offline"]).status.success(), of_remote);
    }
    // Without its password a remote is left out, and the work is done all the same.
    let machine = Machine::new(&config(1, "token-env = \"QUIPU_TEST_NO_SUCH_VARIABLE\""), None);
    let output = machine.run(&[]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && told.contains("left out"), "{told}");
}

#[test]
#[cfg(not(feature = "remote"))]
fn a_command_built_without_remotes_says_so_and_works() {
    let machine = Machine::new(&config(1, ""), None);
    let output = machine.run(&[]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && told.contains("without the feature `remote`"), "{told}");
    assert!(machine.summary().contains("\"ran\":0"));
}

#[test]
fn a_bucket_is_described_by_its_address() {
    let described = "[remote.team]\nurl = \"s3://team-cache\"\nendpoint = \"http://127.0.0.1:1\"\ntimeout = 2\n";
    let run = |who: Option<&str>| {
        let machine = Machine::new(described, None);
        let mut command = machine.command(&[]);
        for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
            command.env_remove(name);
            command.envs(who.map(|who| (name, who)));
        }
        let output = command.output().expect("it was built");
        assert!(output.status.success() && machine.path("ws/count").exists());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let (nobody, somebody) = (run(None), run(Some("somebody")));
    if cfg!(feature = "bucket") {
        assert!(nobody.contains("`team` is left out") && nobody.contains("`AWS_ACCESS_KEY_ID` is not set"), "{nobody}");
        // There is nobody at that address.
        assert!(somebody.contains("remote `team`: `team-cache` cannot be reached"), "{somebody}");
        let machine = Machine::new("[remote.team]\nurl = \"s3://team-cache\"\ntoken-env = \"T\"\n", None);
        let told = String::from_utf8_lossy(&machine.run(&[]).stderr).into_owned();
        assert!(told.contains("unknown field `token-env`") && !machine.path("ws/count").exists(), "{told}");
    } else {
        assert!(
            somebody.contains("`team` is left out") && somebody.contains("without the feature `bucket`"),
            "{somebody}"
        );
    }
}
