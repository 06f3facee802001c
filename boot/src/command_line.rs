//! The boot arguments: what to run.

/// What to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run<'a> {
    /// `run=demo`: the tour for a person.
    Demo,
    /// `scenario=NAME`: one scenario of the test suite.
    Scenario(&'a str),
}

/// Reads the boot arguments; words that are not about what to run are left alone.
///
/// # Errors
///
/// There is no default: nothing to run, an unknown thing to run, or two of them is an error, in
/// words.
pub fn parse(arguments: &str) -> Result<Run<'_>, &'static str> {
    let mut found = None;
    for word in arguments.split_ascii_whitespace() {
        let run = match word.split_once('=') {
            Some(("run", "demo")) => Run::Demo,
            Some(("run", _)) => return Err("the boot argument run= knows `demo` only"),
            Some(("scenario", name)) => Run::Scenario(name),
            _ => continue,
        };
        if found.replace(run).is_some() {
            return Err("the boot arguments ask for more than one thing to run");
        }
    }
    found.ok_or("the boot arguments say neither run=demo nor scenario=NAME")
}
