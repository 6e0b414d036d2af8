//! Companies: services and the tasks that need them, which share a network of their own.
//!
//! Knows who comes after whom; unaware of networks.

use std::collections::HashMap;

use crate::graph::TaskIdx;
use crate::process::SERVICES;
use crate::run::Subject;
use crate::task::Work;

/// Which company a task belongs to, by the first service in it.
#[derive(Debug, Default)]
pub(super) struct Companies(HashMap<TaskIdx, TaskIdx>);

impl Companies {
    /// Two services are of one company when some task needs both, or one needs the other.
    pub(super) fn of(subject: &Subject) -> Self {
        let mut leads = HashMap::new();
        for service in subject.workflow.indices().filter(|t| subject.is_service(*t)) {
            let service = subject.ids.first(service);
            let needs_it = |user: &&TaskIdx| match &subject.workflow.node(**user).work {
                Work::Task(task) => task.args.get(SERVICES).is_some() || subject.is_service(**user),
                Work::External { .. } => false,
            };
            let users = subject.before(service);
            let members: Vec<TaskIdx> = users.iter().filter(needs_it).copied().chain([service]).collect();
            let mut leaders: Vec<TaskIdx> = members.iter().map(|member| lead(&leads, *member)).collect();
            leaders.push(service);
            let first = leaders.iter().copied().min().expect("the service is one of them");
            for member in leaders.into_iter().chain(members) {
                leads.insert(member, first);
            }
        }
        Self(leads)
    }

    /// The number of a task's company, if it is of one.
    pub(super) fn of_task(&self, task: TaskIdx) -> Option<u32> {
        self.0.contains_key(&task).then(|| lead(&self.0, task).index() as u32)
    }
}

/// The first of those that lead to one another; each leads to itself or to an earlier one.
fn lead(leads: &HashMap<TaskIdx, TaskIdx>, mut task: TaskIdx) -> TaskIdx {
    while let Some(next) = leads.get(&task).filter(|next| **next != task) {
        task = *next;
    }
    task
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{Node, SERVICE, Task};
    use crate::value::Value;
    use crate::workflow::Workflow;

    #[test]
    fn services_are_of_one_company_when_somebody_needs_both() {
        let mut workflow = Workflow::new();
        let mut add = |n: i64, is_service: bool, needs: &[usize], only_after: bool| {
            let list = Value::list(needs.iter().map(|i| Value::Int(*i as i64)));
            let mut pairs = vec![("n", Value::Int(n))];
            if !needs.is_empty() && !only_after {
                pairs.push((SERVICES, list));
            }
            let args = Value::map(pairs).expect("keys differ");
            let work = Work::Task(Task::new(if is_service { SERVICE } else { "/test" }, args));
            let after = needs.iter().copied().map(TaskIdx::new).collect();
            workflow
                .add_node(Node { name: format!("t{n}").into(), work, policy: std::sync::Arc::default(), after })
                .expect("new");
        };
        // Three services; `t3` needs the first and the last, `t4` the one between, `t5` comes after all, `t6` after none.
        (0..3).for_each(|n| add(n, true, &[], false));
        add(3, false, &[0, 2], false);
        add(4, false, &[1], false);
        add(5, false, &[0, 1, 2], true);
        add(6, false, &[], false);
        let companies = Companies::of(&Subject::new(workflow).expect("no ring"));
        let of: Vec<Option<u32>> = (0..7).map(|n| companies.of_task(TaskIdx::new(n))).collect();
        assert_eq!(of, [Some(0), Some(1), Some(0), Some(0), Some(1), None, None]);
    }
}
