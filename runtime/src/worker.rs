//! Tasks of persistent workers: what their arguments have beside those of a process.
//!
//! Knows how they are written; unaware of how a worker is started and spoken to. Normative text: `docs/formats/task.md`.

use crate::value::{Text, Value, ValueError};

/// The key of the worker's command line.
pub const WORKER_KEY: &str = "worker";

/// The arguments of a process as a request to a worker with this command line: its only step is what the request says.
pub fn to_args(process: &Value, worker: &[Text]) -> Result<Value, ValueError> {
    let Value::Map(pairs) = process else { return Err(ValueError::Promise(WORKER_KEY.to_owned())) };
    let argv = Value::list(worker.iter().map(|text| Value::Text(text.clone())));
    Value::map(pairs.iter().cloned().chain([(WORKER_KEY.into(), argv)]))
}

/// The command line of the worker; nothing when there is none.
pub fn command(args: &Value) -> Option<Vec<String>> {
    let Some(Value::List(argv)) = args.get(WORKER_KEY) else { return None };
    let argv: Option<Vec<String>> = argv.iter().map(|text| text.as_text().map(str::to_owned)).collect();
    argv.filter(|argv| argv.first().is_some_and(|program| !program.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_beside_what_a_process_has() {
        let process = Value::map([("steps", Value::list([]))]).expect("one key");
        let args = to_args(&process, &["tool".into(), "--serve".into()]).expect("another key");
        assert_eq!(command(&args), Some(vec!["tool".to_owned(), "--serve".to_owned()]));
        assert!(args.get("steps").is_some());
        assert_eq!(command(&process), None);
        assert_eq!(command(&to_args(&process, &[]).expect("another key")), None);
        assert!(to_args(&args, &["again".into()]).is_err(), "one worker");
    }
}
