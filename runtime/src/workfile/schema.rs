//! The JSON Schema of a workfile, by which editors complete and check it.
//!
//! Says what the reader in `parse` takes; what names, paths and variables mean is beyond a schema.

// The types below are never made: the schema is derived from them.
#![allow(dead_code)]

use std::collections::BTreeMap;

use schemars::{JsonSchema, schema_for};

/// The schema, as a JSON value.
pub fn schema() -> serde_json::Value {
    schema_for!(Workfile).to_value()
}

/// A quipu workfile.
#[derive(JsonSchema)]
#[schemars(title = "quipu.toml", deny_unknown_fields, rename_all = "kebab-case")]
struct Workfile {
    /// What holds for the whole workspace. Only in the root's workfile.
    workspace: Option<Workspace>,
    /// What this folder is called as a member of a workspace.
    member: Option<Member>,
    /// Texts by name, for `{{name}}`.
    #[schemars(extend("propertyNames" = { "pattern": "^[A-Za-z_][A-Za-z0-9_-]*$" }))]
    vars: Option<BTreeMap<String, Scalar>>,
    /// Tasks by name.
    #[schemars(extend("propertyNames" = { "pattern": "^[A-Za-z0-9_.-]+$" }))]
    task: Option<BTreeMap<String, Task>>,
}

/// What holds for the whole workspace.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields, rename_all = "kebab-case")]
struct Workspace {
    /// Folders with a workfile of their own, or globs of such folders.
    members: Option<Vec<String>>,
    /// What is made when nothing is asked for: selectors of tasks.
    default: Option<OneOrMany>,
    /// How tasks are isolated that do not say themselves.
    sandbox: Option<Sandbox>,
    /// The name space of all tasks' ids, a DID.
    #[schemars(regex(pattern = "^did:.+:.+"))]
    subject: Option<String>,
}

/// What this folder is called as a member of a workspace.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Member {
    /// The name its tasks start with elsewhere, in place of the folder's.
    #[schemars(regex(pattern = "^[A-Za-z0-9_.-]+$"))]
    name: Option<String>,
}

/// One task, or a group of tasks when it has no `run` or `steps`.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields, rename_all = "kebab-case")]
struct Task {
    /// For people.
    description: Option<String>,
    /// For selectors: `tag:x`.
    tags: Option<Vec<String>>,
    /// The command: a string for the shell, or program and arguments.
    run: Option<Run>,
    /// Several commands, run in sequence until one fails.
    #[schemars(length(min = 1))]
    steps: Option<Vec<Run>>,
    /// Files it reads: paths, folders, globs, and exclusions that start with `!`. By default the member's files that git does not ignore and no task makes.
    inputs: Option<Vec<String>>,
    /// Files it makes: paths, folders ending in `/`, globs.
    outputs: Option<Vec<Output>>,
    /// Tasks whose outputs are inputs, as selectors.
    needs: Option<OneOrMany>,
    /// Tasks that end before it starts, as selectors. Not part of its id.
    after: Option<OneOrMany>,
    /// Environment variables.
    env: Option<BTreeMap<String, Scalar>>,
    /// Environment variables taken from outside, which are part of its id.
    pass_env: Option<Vec<String>>,
    /// Environment variables taken from outside, whose values are part of nothing and written down nowhere.
    secret_env: Option<Vec<String>>,
    /// Where it runs, relative to the workfile's folder.
    dir: Option<String>,
    /// The file it reads from standard input.
    stdin: Option<String>,
    /// The file its standard output is written to, an output like any other.
    stdout: Option<String>,
    /// A file in which it says, as `gcc -MD` does, which of its inputs it read; an output like any other. Inputs that are not named one by one and were not read may change.
    depfile: Option<String>,
    /// Programs whose content is part of its id.
    tools: Option<Vec<String>>,
    /// Lists of values; one task is made for each combination.
    #[schemars(extend("minProperties" = 1, "propertyNames" = { "pattern": "^[A-Za-z_][A-Za-z0-9_-]*$" }))]
    matrix: Option<BTreeMap<String, Values>>,
    /// Values of a list called `version`, as in `matrix`.
    versions: Option<Values>,
    /// Variants of the matrix that are made, when not all are.
    only: Option<Filters>,
    /// Variants of the matrix that are not made.
    exclude: Option<Filters>,
    /// The time it may take, with all attempts and pauses: `"10s"`, `"1h30m"`, or a number of seconds.
    timeout: Option<Timeout>,
    /// How often it is tried again after a failure.
    #[schemars(range(min = 0, max = 100))]
    retries: Option<i64>,
    /// The pause before it is tried again, doubled each time: `"10s"`, `"1h30m"`, or a number of seconds.
    backoff: Option<Timeout>,
    /// What must have become of the tasks it comes after. By default all of them succeeded.
    when: Option<When>,
    /// Whether its receipts settle it in later runs.
    cache: Option<bool>,
    /// Slots it takes while it runs: a number of those that `-j` counts, or numbers by name.
    slots: Option<Slots>,
    /// What runs a `run` that is a string, which is put at the end.
    #[schemars(length(min = 1))]
    shell: Option<Vec<String>>,
    /// How it is isolated.
    sandbox: Option<Sandbox>,
    /// Whether it may use the network.
    network: Option<bool>,
    /// Whether its output is kept from the terminal.
    mute: Option<bool>,
}

#[derive(JsonSchema)]
#[schemars(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(JsonSchema)]
#[schemars(untagged)]
enum Run {
    Shell(#[schemars(length(min = 1))] String),
    Argv(#[schemars(length(min = 1))] Vec<String>),
}

#[derive(JsonSchema)]
#[schemars(untagged)]
enum Output {
    Path(String),
    Table(OutputTable),
}

/// An output with more to say than its path.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct OutputTable {
    /// Path, folder ending in `/`, or glob.
    path: String,
    /// Whether it may be missing.
    optional: Option<bool>,
}

#[derive(JsonSchema)]
#[schemars(untagged)]
enum Scalar {
    Text(String),
    Int(i64),
}

/// Words as bash reads them, braces included, or a list of values.
#[derive(JsonSchema)]
#[schemars(untagged)]
enum Values {
    Words(#[schemars(length(min = 1))] String),
    List(#[schemars(length(min = 1))] Vec<Scalar>),
}

#[derive(JsonSchema)]
#[schemars(untagged)]
enum Filters {
    One(Filter),
    Many(Vec<Filter>),
}

/// For each list it names, the values that are meant; `*` and `?` stand for any text and any character.
#[derive(JsonSchema)]
struct Filter(#[schemars(extend("minProperties" = 1))] BTreeMap<String, ScalarOrValues>);

#[derive(JsonSchema)]
#[schemars(untagged)]
enum ScalarOrValues {
    One(i64),
    Values(Values),
}

#[derive(JsonSchema)]
#[schemars(untagged)]
enum Timeout {
    Text(#[schemars(regex(pattern = "^([0-9]+(ms|s|m|h|d))+$"))] String),
    Seconds(#[schemars(range(min = 1, max = 31_622_400))] i64),
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum When {
    /// One of them failed.
    Failure,
    /// Whatever became of them.
    Always,
}

#[derive(JsonSchema)]
#[schemars(untagged)]
enum Slots {
    Count(#[schemars(range(min = 1, max = 65_535))] i64),
    ByName(BTreeMap<String, SlotCount>),
}

#[derive(JsonSchema)]
struct SlotCount(#[schemars(range(min = 1, max = 65_535))] i64);

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum Sandbox {
    /// Namespaces of its own: what it did not declare is not there.
    Ns,
    /// Landlock: what it did not declare is refused.
    Landlock,
    /// Nothing: it runs in the workspace.
    None,
}
