//! Nothing yet: the state machine is tested in `model`, against the world of `sim`.
