//! What the driver did wrong, kept until a test looks at it.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

/// A rule that was broken: its id in the conformance checklist, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub rule: &'static str,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.what)
    }
}

/// The list, shared by the memory, the registers and the queues of one model.
#[derive(Clone, Debug, Default)]
pub struct Violations(Arc<Mutex<Vec<Violation>>>);

impl Violations {
    pub fn record(&self, rule: &'static str, what: impl Into<String>) {
        self.list().push(Violation {
            rule,
            what: what.into(),
        });
    }

    /// Empties the list: the caller has looked at it.
    pub fn take(&self) -> Vec<Violation> {
        std::mem::take(&mut *self.list())
    }

    pub fn is_empty(&self) -> bool {
        self.list().is_empty()
    }

    /// The rules broken so far, in order, and empties the list.
    pub fn take_rules(&self) -> Vec<&'static str> {
        self.take().into_iter().map(|v| v.rule).collect()
    }

    fn list(&self) -> MutexGuard<'_, Vec<Violation>> {
        self.0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
