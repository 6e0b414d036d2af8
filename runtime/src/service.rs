//! Services: the typed form of the arguments of `/quipu/service`, both ways.
//!
//! Knows that a service is a process that is looked at until it is ready; unaware of how either is done.

use crate::value::Value;
use crate::wait::WaitSpec;

/// The arguments of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceSpec {
    /// The arguments of the process.
    pub process: Value,
    /// What is there when it is ready.
    pub ready: WaitSpec,
}

impl ServiceSpec {
    /// The arguments as a value.
    pub fn to_args(&self) -> Value {
        Value::map([("process", self.process.clone()), ("ready", self.ready.to_args())])
            .expect("fixed keys are distinct")
    }

    /// Reads arguments back; nothing when they are none of these.
    pub fn from_args(args: &Value) -> Option<Self> {
        Some(Self { process: args.get("process")?.clone(), ready: WaitSpec::from_args(args.get("ready")?)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait::WaitFor;
    use std::time::Duration;

    #[test]
    fn arguments_read_back() {
        let ready = WaitSpec { what: WaitFor::Tcp("localhost:80".into()), every: Duration::from_millis(100) };
        let spec = ServiceSpec { process: Value::map([("steps", Value::Null)]).expect("map"), ready };
        assert_eq!(ServiceSpec::from_args(&spec.to_args()), Some(spec.clone()));
        assert_eq!(ServiceSpec::from_args(&spec.process), None);
    }
}
