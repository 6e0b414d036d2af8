//! An async Rust function as an executor: for embedding programs that do work of their own under a command's name.
//!
//! Knows how to call it; unaware of what it does.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use quipu_store::receipt::{Failure, FailureKind, Output};

use super::{Done, Executor, Job, Stop, Unusable};

/// What [`native`] makes.
pub struct Native<F> {
    function: F,
}

/// Lets `function` carry out invocations.
///
/// It is dropped at its next `await` when the job's time is up or it is wished to stop.
pub fn native<F, W>(function: F) -> Native<F>
where
    F: Fn(Job) -> W + Send + Sync,
    W: Future<Output = Result<Output, Failure>> + Send,
{
    Native { function }
}

impl<F, W> Executor for Native<F>
where
    F: Fn(Job) -> W + Send + Sync,
    W: Future<Output = Result<Output, Failure>> + Send,
{
    fn execute(&self, job: Job) -> Pin<Box<dyn Future<Output = Done> + Send + '_>> {
        Box::pin(async move {
            let started = Instant::now();
            let (timeout, mut stop) = (job.timeout, job.stop.clone());
            let stopped = async move {
                // A sender that is gone wishes for nothing any more.
                if stop.wait_for(|s| *s != Stop::No).await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            let late = async move {
                match timeout {
                    Some(limit) => {
                        tokio::time::sleep(limit).await;
                        u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)
                    }
                    None => std::future::pending().await,
                }
            };
            let (result, unusable) = tokio::select! {
                biased;
                () = stopped => {
                    let why = "it was stopped".to_owned();
                    (Err(FailureKind::Executor { why }.into()), Some(Unusable::Cancelled))
                }
                result = (self.function)(job) => (result, None),
                limit_ms = late => (Err(FailureKind::Timeout { limit_ms }.into()), None),
            };
            // Other tasks run on the same threads: wall time is the closest that can be said.
            let cpu = started.elapsed().min(Duration::from_secs(u64::from(u32::MAX)));
            Done { result, cpu, rss_bytes: 0, aside: Duration::ZERO, tier: "native", host: None, unusable }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{job, runtime};
    use super::*;

    #[test]
    fn a_function_gives_its_result_is_ended_in_time_and_can_be_stopped() {
        runtime().block_on(async {
            let executor = native(|job: Job| async move {
                match &*job.name {
                    "quick" => Ok(Output::default()),
                    "wrong" => Err(FailureKind::Exit { code: 3 }.into()),
                    _ => std::future::pending().await,
                }
            });
            let (quick, _stop) = job("quick");
            assert_eq!(executor.execute(quick).await.result, Ok(Output::default()));
            let (wrong, _stop) = job("wrong");
            assert_eq!(executor.execute(wrong).await.result, Err(FailureKind::Exit { code: 3 }.into()));
            let (mut endless, _stop) = job("endless");
            endless.timeout = Some(Duration::from_millis(5));
            assert_eq!(executor.execute(endless).await.result, Err(FailureKind::Timeout { limit_ms: 5 }.into()));
            let (endless, stop) = job("endless");
            stop.send(Stop::Cancel).expect("the job listens");
            assert_eq!(executor.execute(endless).await.unusable, Some(Unusable::Cancelled));
        });
    }
}
