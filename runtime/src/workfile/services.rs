//! Services and those that need them: whether they can reach each other at all.
//!
//! Knows recipes, groups replaced by what they stand for; unaware of networks beyond which there are.

use super::errors::{ErrorKind, WorkfileError};
use super::findings::Findings;
use super::recipe::{Act, Recipe};
use crate::process::Tier;

/// A network that a process can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Network {
    /// One for services and those that need them alone.
    Own,
    /// That of the machine.
    Machine,
    /// None.
    None,
}

impl Network {
    fn of(recipe: &Recipe) -> Self {
        match (recipe.tier, recipe.network) {
            (Tier::None, _) | (_, true) => Self::Machine,
            (Tier::Ns, false) => Self::Own,
            (Tier::Landlock, false) => Self::None,
        }
    }

    fn told(self) -> &'static str {
        match self {
            Self::Own => "the network of services",
            Self::Machine => "the network of the machine",
            Self::None => "no network",
        }
    }
}

/// Reports tasks that need a service and cannot use it.
pub(super) fn check(recipes: &[Recipe], findings: &mut Findings) {
    for (i, recipe) in recipes.iter().enumerate().filter(|(_, recipe)| recipe.runs()) {
        for service in recipe.needs.iter().map(|to| &recipes[*to]).filter(|needed| needed.is_service()) {
            let Some((message, hint)) = obstacle(recipe, service) else { continue };
            let error = WorkfileError::new(ErrorKind::BadValue, recipe.key_place("needs"), message);
            let error = error.see(service.place, format!("`{}` is here", service.name)).hint(hint);
            findings.add(i, !recipe.variant.is_empty(), error);
        }
    }
}

fn obstacle(recipe: &Recipe, service: &Recipe) -> Option<(String, &'static str)> {
    if !matches!(recipe.act, Act::Process | Act::Service(_)) {
        let what = recipe.act.told();
        let message = format!("task `{}` {what}, and needs the service `{}`", recipe.name, service.name);
        return Some((message, "list it in `after`"));
    }
    let (own, of_service) = (Network::of(recipe), Network::of(service));
    if own == of_service && own != Network::None {
        return None;
    }
    let message = format!(
        "task `{}` needs the service `{}` and cannot reach it: it has {}, the service {}",
        recipe.name,
        service.name,
        own.told(),
        of_service.told()
    );
    Some((message, "say `network = true` for both or for neither, and the same `sandbox`"))
}
