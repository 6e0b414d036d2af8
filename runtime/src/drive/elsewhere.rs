//! Questions of a run that only somebody elsewhere can answer: asked in the background while there is a
//! runtime, in place before.
//!
//! Knows which question waits for which answer; unaware of who is asked and how.

use std::sync::Arc;

use quipu_store::cid::{InvocationId, OutputId, ReceiptId, TaskId};
use quipu_store::receipt::Output;
use quipu_store::{Found, StoreError};

use super::work::Message;
use super::{Drive, DriveError, Goal};
use crate::graph::TaskIdx;
use crate::run::step::{Candidate, Event, Need, Part, Placed};
use crate::task::Work;

/// What was asked, with all that is needed to make an event of the answer.
#[derive(Clone)]
pub(super) enum Question {
    Tasks(Vec<AboutTask>),
    Invocations(Vec<AboutInvocation>),
    Awaited(Vec<AboutAwaited>),
    Stage { task: TaskIdx, epoch: u32, needs: Vec<Need> },
    Select { task: TaskIdx, epoch: u32, parts: Vec<Part> },
    Place { task: TaskIdx, epoch: u32, output: Arc<Output>, fresh: bool },
}

/// A task with what is known of it here.
#[derive(Clone)]
pub(super) struct AboutTask {
    pub(super) task: TaskIdx,
    pub(super) id: TaskId,
    pub(super) found: Vec<Found>,
    pub(super) accepted: Option<(ReceiptId, OutputId)>,
}

/// An invocation with what is known of it here.
#[derive(Clone)]
pub(super) struct AboutInvocation {
    pub(super) task: TaskIdx,
    pub(super) epoch: u32,
    pub(super) id: InvocationId,
    pub(super) found: Vec<Found>,
}

/// A task that another workspace does.
#[derive(Clone)]
pub(super) struct AboutAwaited {
    pub(super) task: TaskIdx,
    pub(super) id: TaskId,
}

/// What somebody elsewhere said. Bytes are in the store by then.
#[derive(Default)]
pub(super) struct Answer {
    found: Vec<Vec<Found>>,
    warnings: Vec<String>,
    error: Option<StoreError>,
}

/// How far questions to others go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Receipts are looked for; bytes are believed to be had.
    Look,
    /// Receipts are looked for; bytes wait until there is a runtime.
    Begin,
    /// Everything is asked in the background.
    Work,
    /// Nobody is asked any more.
    Stopped,
}

impl Drive {
    /// Whether others may know more about a task: nothing that counts here settles it.
    pub(super) fn ask_others(&self, task: TaskIdx, candidates: &[Candidate]) -> bool {
        let pure = match &self.subject.workflow.node(task).work {
            Work::Task(recipe) => recipe.nonce.is_empty(),
            Work::External { .. } => true,
        };
        let wanted = pure && self.subject.workflow.node(task).policy.cache && !self.run.is_forced(task);
        wanted && self.can_ask() && !candidates.iter().any(|c| c.result.is_ok())
    }

    pub(super) fn can_ask(&self) -> bool {
        self.reach != Reach::Stopped && self.remotes.can_read()
    }

    /// Asks now or later, here or in the background.
    pub(super) fn ask(&mut self, question: Question) -> Result<(), DriveError> {
        let about_receipts = matches!(question, Question::Tasks(_) | Question::Invocations(_) | Question::Awaited(_));
        let about_bytes = !about_receipts;
        match self.reach {
            Reach::Look if about_bytes => self.believe(question),
            Reach::Begin if about_bytes => {
                self.asked_last += 1;
                self.asked.insert(self.asked_last, question);
                Ok(())
            }
            Reach::Work => {
                self.asked_last += 1;
                self.asked.insert(self.asked_last, question);
                self.send_question(self.asked_last);
                Ok(())
            }
            Reach::Look | Reach::Begin => {
                let answer = answer(&self.remotes, &question);
                self.conclude(question, answer)
            }
            Reach::Stopped => self.conclude(question, Answer::default()),
        }
    }

    /// From now on there is a runtime: what had to wait for it is asked.
    pub(super) fn reach_out(&mut self) {
        self.reach = Reach::Work;
        let waiting: Vec<u64> = self.asked.keys().copied().collect();
        waiting.into_iter().for_each(|n| self.send_question(n));
    }

    fn send_question(&mut self, number: u64) {
        let (remotes, sender) = (self.remotes.clone(), self.sender.clone());
        let question = self.asked[&number].clone();
        let asked = tokio::task::spawn_blocking(move || answer(&remotes, &question));
        self.in_background(async move {
            let answer = asked.await.unwrap_or_else(|error| {
                let warnings = vec![format!("others could not be asked: {error}; the run goes on without them")];
                Answer { warnings, ..Answer::default() }
            });
            // A driver that is gone has no use for it.
            let _ = sender.send(Message::Answered { number, answer: Box::new(answer) });
        });
    }

    pub(super) fn answered(&mut self, number: u64, answer: Answer) -> Result<(), DriveError> {
        match self.asked.remove(&number) {
            Some(question) => self.conclude(question, answer),
            None => Ok(()),
        }
    }

    /// The run is to end: whoever still thinks is not waited for.
    pub(super) fn stop_asking(&mut self) -> Result<(), DriveError> {
        self.reach = Reach::Stopped;
        for (_, question) in std::mem::take(&mut self.asked) {
            self.conclude(question, Answer::default())?;
        }
        Ok(())
    }

    /// Makes events of an answer, with what the local store says now.
    fn conclude(&mut self, question: Question, answer: Answer) -> Result<(), DriveError> {
        answer.warnings.into_iter().for_each(|w| self.warn_once(w));
        if let Some(error) = answer.error {
            return Err(error.into());
        }
        let mut others = answer.found.into_iter();
        match question {
            Question::Tasks(tasks) => {
                for AboutTask { task, found, accepted, .. } in tasks {
                    let candidates = self.candidates(&together(found, others.next()))?;
                    // What was accepted goes with the trust in who issued it.
                    let accepted = accepted.filter(|(id, _)| candidates.iter().any(|c| c.receipt == *id));
                    self.run.on(Event::Found { task, candidates, accepted });
                }
            }
            Question::Invocations(invocations) => {
                for AboutInvocation { task, epoch, found, .. } in invocations {
                    let candidates = self.candidates(&together(found, others.next()))?;
                    self.run.on(Event::FoundInvocation { task, epoch, candidates });
                }
            }
            Question::Awaited(awaited) => {
                self.heard_of_awaited();
                for (AboutAwaited { task, .. }, found) in awaited.into_iter().zip(others) {
                    self.settle_awaited(task, &found)?;
                }
            }
            Question::Stage { task, epoch, needs } => {
                let hollow = self.hollow(&needs)?;
                self.run.on(Event::Staged { task, epoch, hollow });
            }
            Question::Select { task, epoch, parts } => {
                let (entries, hollow) = self.select(&parts)?;
                self.run.on(Event::Selected { task, epoch, entries, hollow });
            }
            Question::Place { task, epoch, output, fresh } => {
                let placed = self.put_in_place(&[Goal { task, output, fresh }]).remove(0);
                self.run.on(Event::Placed { task, epoch, placed });
            }
        }
        Ok(())
    }

    /// A plan moves no bytes: what a receipt speaks of is taken to be where the receipt was.
    fn believe(&mut self, question: Question) -> Result<(), DriveError> {
        match question {
            Question::Stage { task, epoch, .. } => {
                self.run.on(Event::Staged { task, epoch, hollow: vec![] });
                Ok(())
            }
            Question::Place { task, epoch, .. } => {
                self.run.on(Event::Placed { task, epoch, placed: Placed::Done });
                Ok(())
            }
            // Names of files in a directory have to be known even for a plan.
            other => {
                let answer = answer(&self.remotes, &other);
                self.conclude(other, answer)
            }
        }
    }
}

/// What is known here with what others know, each receipt once.
fn together(mut found: Vec<Found>, others: Option<Vec<Found>>) -> Vec<Found> {
    for other in others.into_iter().flatten() {
        if !found.iter().any(|f| f.signed.id == other.signed.id) {
            found.push(other);
        }
    }
    found
}

/// Asks, and waits. On a thread that may.
fn answer(remotes: &super::remotes::Remotes, question: &Question) -> Answer {
    let mut answer = Answer::default();
    let needs = match question {
        Question::Tasks(tasks) => {
            let ids: Vec<TaskId> = tasks.iter().map(|t| t.id).collect();
            answer.found = remotes.find_tasks(&ids, &mut answer.warnings);
            return answer;
        }
        Question::Invocations(invocations) => {
            let ids: Vec<InvocationId> = invocations.iter().map(|i| i.id).collect();
            answer.found = remotes.find_invocations(&ids, &mut answer.warnings);
            return answer;
        }
        Question::Awaited(awaited) => {
            let ids: Vec<TaskId> = awaited.iter().map(|a| a.id).collect();
            answer.found = remotes.find_tasks(&ids, &mut answer.warnings);
            return answer;
        }
        Question::Stage { needs, .. } => needs.clone(),
        Question::Select { parts, .. } => {
            answer.error = remotes.fetch_nodes(parts, &mut answer.warnings).err();
            return answer;
        }
        Question::Place { task, output, .. } => {
            vec![Need { from: *task, entries: output.artifacts.values().cloned().collect(), streams: vec![] }]
        }
    };
    answer.error = remotes.fetch(&needs, &mut answer.warnings).err();
    answer
}
