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
    /// Other workfiles, whose tasks are `name:task`.
    include: Option<Vec<Include>>,
    /// Texts by name, for `{{name}}`.
    #[schemars(extend("propertyNames" = { "pattern": "^[A-Za-z_][A-Za-z0-9_-]*$" }))]
    vars: Option<BTreeMap<String, Scalar>>,
    /// Values that are given from outside, for `{{name}}`.
    #[schemars(extend("propertyNames" = { "pattern": "^[A-Za-z_][A-Za-z0-9_-]*$" }))]
    params: Option<BTreeMap<String, Param>>,
    /// What tasks may extend, by name: the same keys.
    template: Option<BTreeMap<String, Task>>,
    /// Tasks by name.
    #[schemars(extend("propertyNames" = { "pattern": "^[A-Za-z0-9_.-]+$" }))]
    task: Option<BTreeMap<String, Task>>,
}

/// What holds for the whole workspace.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields, rename_all = "kebab-case")]
struct Workspace {
    /// Folders with a workfile of their own, or globs of such folders.
    members: Option<Vec<MemberEntry>>,
    /// What is made when nothing is asked for: selectors of tasks.
    default: Option<OneOrMany>,
    /// How tasks are isolated that do not say themselves.
    sandbox: Option<Sandbox>,
    /// The name space of all tasks' ids, a DID.
    #[schemars(regex(pattern = "^did:.+:.+"))]
    subject: Option<String>,
}

#[derive(JsonSchema)]
#[schemars(untagged)]
enum MemberEntry {
    /// A folder or a glob; `!` takes away what was listed before.
    Path(String),
    Table(MemberTable),
}

/// Members, and what all their tasks take from the workspace. What later entries say is added.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct MemberTable {
    /// A folder or a glob of folders.
    path: String,
    /// Templates of the root that their tasks extend, before their own.
    extends: Option<OneOrMany>,
    /// Tags of all their tasks.
    tags: Option<Vec<String>>,
    /// Variables that they know, unless they have their own.
    vars: Option<BTreeMap<String, Scalar>>,
}

#[derive(JsonSchema)]
#[schemars(untagged)]
enum Include {
    /// A path or a glob, relative to the workfile.
    Path(String),
    Table(IncludeTable),
}

/// A workfile that is included.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct IncludeTable {
    /// A path or a glob, relative to the workfile.
    path: Option<String>,
    /// Where a remote one is.
    url: Option<String>,
    /// The hash of a remote one's content, in hexadecimal digits or as the id of a blob.
    blake3: Option<String>,
    /// What its tasks' names start with, in place of the file's name without what follows its first dot.
    #[schemars(regex(pattern = "^[A-Za-z0-9_.-]+$"))]
    name: Option<String>,
    /// What its paths are relative to, in place of the folder of the workfile that includes it.
    dir: Option<String>,
}

#[derive(JsonSchema)]
#[schemars(untagged)]
enum Param {
    Table(ParamTable),
    Default(Default),
}

/// A value that is given from outside.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields, rename_all = "kebab-case")]
struct ParamTable {
    /// What it takes; that of its default when it has one, else any text.
    r#type: Option<ParamType>,
    /// What it is when nobody says.
    default: Option<Default>,
    /// Whether somebody must say it. One without default is, unless this is `false`.
    required: Option<bool>,
    /// A regular expression that all of each value must be of.
    pattern: Option<String>,
    /// The values there are.
    choices: Option<Vec<Scalar>>,
    /// A variable of the environment that may say it.
    from_env: Option<String>,
    /// What to do instead: it should not be given any more.
    deprecated: Option<String>,
    /// For people.
    description: Option<String>,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum ParamType {
    /// Any text.
    String,
    /// A whole number.
    Int,
    /// `true` or `false`.
    Bool,
    /// Words.
    List,
}

#[derive(JsonSchema)]
#[schemars(untagged)]
enum Default {
    Text(String),
    Int(i64),
    Bool(bool),
    List(Vec<Scalar>),
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
    /// Templates it takes keys from, later ones winning. A key that is `false` is taken from none.
    extends: Option<OrFalse<OneOrMany>>,
    /// When it runs: a condition on params, variables, `platform.os` and `platform.arch`; or what must have become of
    /// the tasks it comes after, `failure`, `always` or `changed`.
    when: Option<When>,
    /// Texts by name, for `{{name}}` in this task.
    vars: Option<OrFalse<BTreeMap<String, OrFalse<Scalar>>>>,
    /// Values that are given from outside, for `{{name}}` in this task.
    params: Option<OrFalse<BTreeMap<String, Param>>>,
    /// For people.
    description: Option<OrFalse<String>>,
    /// For selectors: `tag:x`.
    tags: Option<OrFalse<Vec<String>>>,
    /// The command: a string for the shell, or program and arguments.
    run: Option<OrFalse<Run>>,
    /// Several commands, run in sequence until one fails.
    steps: Option<OrFalse<Steps>>,
    /// Program and arguments of a persistent worker, to which `run` is a request: a list of arguments.
    worker: Option<OrFalse<Shell>>,
    /// What it fetches, instead of running something.
    fetch: Option<OrFalse<Fetch>>,
    /// What it waits for, instead of running something.
    wait: Option<OrFalse<Wait>>,
    /// What is there once it is ready: its last command goes on while the tasks that need it run.
    service: Option<OrFalse<Wait>>,
    /// Whether it is done elsewhere: it is settled by what somebody delivers.
    external: Option<bool>,
    /// A task of another workfile or workspace, by its id: this stands for what comes out of it.
    r#await: Option<OrFalse<Await>>,
    /// Files it reads: paths, folders, globs, and exclusions that start with `!`. By default the member's files that git does not ignore and no task makes.
    inputs: Option<OrFalse<Vec<String>>>,
    /// Files it makes: paths, folders ending in `/`, globs.
    outputs: Option<OrFalse<Vec<Output>>>,
    /// Whether its outputs are placed only once all checks on it (tasks without outputs that read them) have passed.
    publish: Option<bool>,
    /// Tasks whose outputs are inputs, as selectors.
    needs: Option<OrFalse<OneOrMany>>,
    /// Tasks that end before it starts, as selectors. Not part of its id.
    after: Option<OrFalse<OneOrMany>>,
    /// Environment variables.
    env: Option<OrFalse<BTreeMap<String, OrFalse<Scalar>>>>,
    /// Environment variables taken from outside, which are part of its id.
    pass_env: Option<OrFalse<Vec<String>>>,
    /// Environment variables taken from outside, whose values are part of nothing and written down nowhere.
    secret_env: Option<OrFalse<Vec<String>>>,
    /// Files of `NAME=value` lines that set environment variables; `env` comes before them.
    env_file: Option<OrFalse<OneOrMany>>,
    /// Where it runs, relative to the workfile's folder.
    dir: Option<OrFalse<String>>,
    /// The file it reads from standard input.
    stdin: Option<OrFalse<String>>,
    /// The file its standard output is written to, an output like any other.
    stdout: Option<OrFalse<String>>,
    /// A file in which it says, as `gcc -MD` does, which of its inputs it read; an output like any other. Inputs that are not named one by one and were not read may change.
    depfile: Option<OrFalse<String>>,
    /// Programs whose content is part of its id.
    tools: Option<OrFalse<Vec<String>>>,
    /// Lists of values; one task is made for each combination.
    matrix: Option<OrFalse<Matrix>>,
    /// Values of a list called `version`, as in `matrix`.
    versions: Option<OrFalse<Values>>,
    /// Variants of the matrix that are made, when not all are.
    only: Option<OrFalse<Filters>>,
    /// Variants of the matrix that are not made.
    exclude: Option<OrFalse<Filters>>,
    /// The time it may take, with all attempts and pauses: `"10s"`, `"1h30m"`, or a number of seconds.
    timeout: Option<OrFalse<Timeout>>,
    /// How often it is tried again after a failure.
    retries: Option<OrFalse<Retries>>,
    /// The pause before it is tried again, doubled each time: `"10s"`, `"1h30m"`, or a number of seconds.
    backoff: Option<OrFalse<Timeout>>,
    /// Whether its receipts settle it in later runs.
    cache: Option<bool>,
    /// Slots it takes while it runs: a number of those that `-j` counts, or numbers by name.
    slots: Option<OrFalse<Slots>>,
    /// What runs a `run` that is a string, which is put at the end.
    shell: Option<OrFalse<Shell>>,
    /// How it is isolated.
    sandbox: Option<OrFalse<Sandbox>>,
    /// Whether it may use the network.
    network: Option<bool>,
    /// Whether its output is kept from the terminal.
    mute: Option<bool>,
}

/// A value, or `false` to have none although something extended has one.
#[derive(JsonSchema)]
#[schemars(untagged)]
enum OrFalse<T> {
    Value(T),
    None(#[schemars(extend("const" = false))] bool),
}

#[derive(JsonSchema)]
#[schemars(untagged)]
enum When {
    Condition(String),
    Fixed(bool),
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

/// What a task fetches: content by its hash, `sha256` or `blake3`.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Fetch {
    /// Where it is to be had, or several such places, which are asked in this order: `https://`, `http://`, `file:`.
    url: OneOrMany,
    /// The SHA-256 of its content, in hexadecimal digits.
    sha256: Option<String>,
    /// The BLAKE3 of its content, in hexadecimal digits or as the id of a blob.
    blake3: Option<String>,
    /// How it is unpacked, when it is.
    unpack: Option<Unpack>,
    /// How many folders are taken off the paths of what is unpacked.
    #[schemars(range(min = 1, max = 32))]
    strip: Option<i64>,
    /// Whether the file may be executed.
    executable: Option<bool>,
}

#[derive(JsonSchema)]
enum Unpack {
    #[schemars(rename = "tar")]
    Tar,
    #[schemars(rename = "tar.gz")]
    TarGz,
    #[schemars(rename = "tar.bz2")]
    TarBz2,
    #[schemars(rename = "tar.xz")]
    TarXz,
    #[schemars(rename = "tar.zst")]
    TarZst,
    #[schemars(rename = "zip")]
    Zip,
}

/// What is waited for: one of `tcp`, `http`, `file` and `command`.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Wait {
    /// A server that takes connections: `host:port`.
    tcp: Option<String>,
    /// An answer to a request: `http://host:port/path`.
    http: Option<String>,
    /// A file.
    file: Option<String>,
    /// A command that succeeds.
    command: Option<Run>,
    /// The status code of the answer. By default 200.
    #[schemars(range(min = 100, max = 599))]
    code: Option<i64>,
    /// How long it is from one look to the next.
    interval: Option<Timeout>,
}

/// A task of another workflow: its id, for what it makes; or one of `ok`, `error` and `any` with it.
#[derive(JsonSchema)]
#[schemars(untagged)]
enum Await {
    /// The id of the task, which must succeed.
    Task(String),
    /// The id with the outcome that is awaited.
    Outcome(AwaitTable),
}

/// Which outcome of a task of another workflow is awaited.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct AwaitTable {
    /// Success.
    ok: Option<String>,
    /// Failure.
    error: Option<String>,
    /// Whichever it is.
    any: Option<String>,
}

#[derive(JsonSchema)]
#[schemars(untagged)]
enum Slots {
    Count(#[schemars(range(min = 1, max = 65_535))] i64),
    ByName(BTreeMap<String, OrFalse<SlotCount>>),
}

#[derive(JsonSchema)]
struct Steps(#[schemars(length(min = 1))] Vec<Run>);

#[derive(JsonSchema)]
struct Shell(#[schemars(length(min = 1))] Vec<String>);

#[derive(JsonSchema)]
struct Retries(#[schemars(range(min = 0, max = 100))] i64);

#[derive(JsonSchema)]
struct Matrix(
    #[schemars(extend("minProperties" = 1, "propertyNames" = { "pattern": "^[A-Za-z_][A-Za-z0-9_-]*$" }))]
    BTreeMap<String, OrFalse<Values>>,
);

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
