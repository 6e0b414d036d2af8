//! Tasks that work in the workspace itself: what a running task looks at stays as it is.

use quipu_store::tree::Entry;

use super::*;
use crate::run::sim::in_place;

fn here(node: &mut Node) {
    if let Work::Task(recipe) = &node.work {
        node.work = Work::Task(in_place(recipe.clone()));
    }
}

impl Flow {
    fn here(self, name: &str, reads: &str, change: impl FnOnce(&mut Node)) -> Self {
        self.with(name, Does::Hash, source_of(name), reads, |node| {
            here(node);
            change(node);
        })
    }
}

/// The bytes of the file `p` of a task are gone; those of `o` are there.
fn lose_p(world: &mut World, subject: &Subject, name: &str) {
    let id = subject.ids.of(subject.workflow.find(name).expect("named"));
    let made = world.receipts.iter().filter(|r| r.tasks.contains_key(&id)).filter_map(|r| r.result.as_ref().ok());
    for output in made {
        let Some(Entry::File { blob, .. }) = output.artifacts.get("p") else { panic!("every task makes `p`") };
        world.blobs.remove(blob);
    }
}

fn rules() -> Rules {
    Rules { jobs: 3, ..keep_going() }
}

#[test]
fn what_a_running_task_uses_is_not_made_again_before_it_ends() {
    // c uses a; d, which starts later, finds that the bytes of a are gone.
    let flow = Flow::default().here("a", "", |_| {}).here("e", "", |_| {}).here("c", "a", |_| {});
    let e = flow.find("e");
    let mut case = flow.here("d", "a/p", |node| node.after = [e].into()).case().given("c d", "a");
    let subject = Arc::clone(&case.subject);
    let mut drive = case.drive("c d", rules());
    assert_eq!(drive.running(), ["e", "c"]);
    lose_p(drive.world, &subject, "a");
    drive.complete("e");
    assert_eq!(drive.running(), ["c"], "a is to be made again, and c looks at it");
    drive.complete("c");
    assert_eq!(drive.running(), ["a"]);
    drive.complete("a");
    drive.complete("d");
    let report = drive.end();
    assert_eq!((report.ran, report.trampled), (["e", "c", "a", "d"].map(str::to_owned).to_vec(), vec![]));
}

#[test]
fn what_is_used_without_being_awaited_is_left_alone_as_well() {
    let flow = Flow::default().here("a", "", |_| {}).here("e", "", |_| {});
    let (a, e) = (flow.find("a"), flow.find("e"));
    let flow = flow.here("c", "", |node| node.after = [a].into()).here("d", "a", |node| node.after = [e].into());
    let mut case = flow.case().given("c d", "a");
    let subject = Arc::clone(&case.subject);
    let mut drive = case.drive("c d", rules());
    drive.world.lose(&subject, "a");
    drive.complete("e");
    assert_eq!(drive.running(), ["c"]);
}

#[test]
fn a_task_that_could_start_waits_while_what_it_uses_is_made_again() {
    // c waits for a slot when d finds that the bytes of a are gone.
    let gpu = |node: &mut Node| policy_of(node).slots = [("gpu".into(), 1)].into();
    let flow = Flow::default().here("a", "", |_| {}).task("e", "").with("g", Does::Hash, 1, "", gpu);
    let e = flow.find("e");
    let flow = flow.here("c", "a/p", gpu).here("d", "a", |node| node.after = [e].into());
    let mut case = flow.case().given("c d g", "a");
    let subject = Arc::clone(&case.subject);
    let mut drive = case.drive("g c d", rules());
    assert_eq!(drive.running(), ["e", "g"]);
    drive.world.lose(&subject, "a");
    drive.complete("e");
    assert_eq!(drive.running(), ["g", "a"]);
    drive.complete("g");
    assert_eq!(drive.running(), ["a"], "c has its slot now, and nothing to look at");
    drive.complete("a");
    let running = drive.running();
    assert!(running.contains(&"c".to_owned()) && running.contains(&"d".to_owned()), "{running:?}");
}

#[test]
fn nothing_is_put_in_the_place_of_what_a_running_task_uses() {
    // a is made elsewhere and is another one each time: c goes by the first, d and the goal a by the second.
    let flow = Flow::default().does("a", Does::Vary, "").task("e", "").here("c", "a", |_| {});
    let e = flow.find("e");
    let mut case = flow.here("d", "a/p", |node| node.after = [e].into()).case().given("c d", "a");
    let subject = Arc::clone(&case.subject);
    let mut drive = case.drive("a c d", Rules { place: true, ..rules() });
    assert_eq!(drive.running(), ["e", "c"]);
    lose_p(drive.world, &subject, "a");
    drive.complete("e");
    assert_eq!(drive.running(), ["c", "a"], "that does no harm by itself");
    drive.placed.clear();
    drive.complete("a");
    assert_eq!(drive.running(), ["c"], "d would put the new output where c looks at the old one");
    assert!(!drive.placed.contains(&"a".to_owned()), "and so would the run");
    drive.complete("c");
    assert_eq!(drive.placed.iter().filter(|name| *name == "a").count(), 1);
    drive.complete("d");
    drive.complete("c");
    let report = drive.end();
    assert_eq!(report.trampled, Vec::<String>::new());
    assert_eq!(report.ran, ["e", "a", "c", "d", "c"]);
}

#[test]
fn in_rooms_of_their_own_nobody_waits_for_anybody() {
    let flow = Flow::default().task("a", "").task("e", "").task("c", "a");
    let e = flow.find("e");
    let flow = flow.with("d", Does::Hash, 4, "a", |node| node.after = [e].into());
    let mut case = flow.case().given("c d", "a");
    let subject = Arc::clone(&case.subject);
    let mut drive = case.drive("c d", rules());
    drive.world.lose(&subject, "a");
    drive.complete("e");
    assert_eq!(drive.running(), ["c", "a"]);
}
