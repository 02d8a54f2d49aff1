//! Commands: what a client asks for.

use std::collections::HashSet;
use std::time::Duration;

use crate::error::{Error, Result, Subject, Unit};
use crate::limits::{BATCH_OPERATIONS_MAX, TTL_MAX, TTL_MIN, VALUE_BYTES_DEFAULT};
use crate::model::entry::Version;
use crate::model::id::{Fingerprint, PartitionCount};
use crate::model::key::Key;
use crate::model::value::Value;
use crate::model::write::Condition;

/// The work of one job: one operation, or several that take effect together or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A single operation.
    One(Operation),
    /// Several operations, each on a different key.
    Batch(Vec<Operation>),
}

/// One change that a client asks for, under a condition.
///
/// ```
/// use std::time::Duration;
/// use kvstore_core::model::command::{Command, Operation};
/// use kvstore_core::{Key, Value};
///
/// let hits = Operation::add(Key::new("hits")?, 1).expires_after(Duration::from_secs(60));
/// let create = Operation::set(Key::new("user:1")?, Value::parse("{}")?).if_absent();
/// let both = Command::Batch(vec![hits, create]);
/// # Ok::<(), kvstore_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// The key.
    pub key: Key,
    /// The condition that must hold when the job is applied.
    pub condition: Condition,
    /// The change.
    pub action: Action,
    /// How long the resulting value lives. A counter keeps its existing deadline ([`Action::Add`]);
    /// a delete and a check have [`Expiry::Never`], and a touch cannot have [`Expiry::Keep`].
    pub expiry: Expiry,
}

/// The change that an [`Operation`] makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Sets the value of the key.
    Set {
        /// The value.
        value: Value,
    },
    /// Makes the key absent.
    Delete,
    /// Adds to the value, which must be a 64-bit integer; an absent key counts as 0.
    ///
    /// The expiry applies to a key that this creates. An existing entry keeps its deadline, or
    /// stays permanent.
    Add {
        /// The number to add; negative to subtract.
        by: i64,
    },
    /// Merges a patch into the value, as defined by RFC 7396. Members that the patch does not name
    /// keep their bytes and their order.
    Merge {
        /// The patch.
        patch: Value,
        /// Largest result, in bytes. It is not part of the fingerprint, since a setting may change
        /// between a request and its retry.
        bytes_max: usize,
    },
    /// Gives the entry a new deadline and a new version, and leaves the value alone. The key must
    /// be present.
    Touch,
    /// Does nothing but test the condition, which makes a batch depend on a key that it does not
    /// write.
    Check,
}

/// How long a value lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expiry {
    /// Forever.
    #[default]
    Never,
    /// For this long from the moment the queue accepted the write, by the queue's clock: time in
    /// the queue does not prolong the life of a value.
    After(Duration),
    /// As long as the entry that it replaces; forever if there is none.
    Keep,
}

impl Operation {
    fn new(key: Key, action: Action) -> Self {
        Self {
            key,
            condition: Condition::Any,
            action,
            expiry: Expiry::Never,
        }
    }

    /// Sets `key` to `value`, without a deadline and unconditionally.
    pub fn set(key: Key, value: Value) -> Self {
        Self::new(key, Action::Set { value })
    }

    /// Makes `key` absent, unconditionally.
    pub fn delete(key: Key) -> Self {
        Self::new(key, Action::Delete)
    }

    /// Adds `by` to the integer under `key`.
    pub fn add(key: Key, by: i64) -> Self {
        Self::new(key, Action::Add { by })
    }

    /// Merges `patch` into the value under `key` and keeps its deadline. The result may have up to
    /// [`VALUE_BYTES_DEFAULT`] bytes; a [`Service`](crate::Service) replaces this limit by its own.
    pub fn merge(key: Key, patch: Value) -> Self {
        let bytes_max = VALUE_BYTES_DEFAULT;
        Self::new(key, Action::Merge { patch, bytes_max }).keep_ttl()
    }

    /// Lets the entry under `key` live for `ttl` from the moment this is accepted.
    pub fn touch(key: Key, ttl: Duration) -> Self {
        Self::new(key, Action::Touch).expires_after(ttl)
    }

    /// Makes its batch depend on `key`; must be followed by one of the three conditions.
    pub fn check(key: Key) -> Self {
        Self::new(key, Action::Check)
    }

    /// Lets the value live for `ttl` from the moment this is accepted.
    #[must_use]
    pub fn expires_after(self, ttl: Duration) -> Self {
        Self {
            expiry: Expiry::After(ttl),
            ..self
        }
    }

    /// Keeps the deadline of the entry that this replaces.
    #[must_use]
    pub fn keep_ttl(self) -> Self {
        Self {
            expiry: Expiry::Keep,
            ..self
        }
    }

    /// Fails unless the key is absent.
    #[must_use]
    pub fn if_absent(self) -> Self {
        self.under(Condition::Absent)
    }

    /// Fails unless the key is present.
    #[must_use]
    pub fn if_present(self) -> Self {
        self.under(Condition::Present)
    }

    /// Fails unless the key is present with `version`.
    #[must_use]
    pub fn if_version(self, version: Version) -> Self {
        self.under(Condition::Version(version))
    }

    /// Replaces its condition by `condition`.
    #[must_use]
    pub fn under(self, condition: Condition) -> Self {
        Self { condition, ..self }
    }

    /// Returns true if its effect depends on the existing entry.
    pub(crate) fn depends_on_entry(&self) -> bool {
        let by_action = match self.action {
            Action::Set { .. } => self.expiry == Expiry::Keep,
            Action::Delete | Action::Check => false,
            Action::Add { .. } | Action::Merge { .. } | Action::Touch => true,
        };
        by_action || self.condition != Condition::Any
    }

    /// Returns everything except key and value as text: one text for each meaning.
    fn terms(&self) -> String {
        let condition = self.condition.to_text();
        let condition = condition.unwrap_or_else(|| "any".to_owned());
        let by = match self.action {
            Action::Add { by } => format!(" {by}"),
            _ => String::new(),
        };
        let expiry = match self.expiry {
            Expiry::Never => String::new(),
            Expiry::After(span) => format!(" for {} ms", span.as_millis()),
            Expiry::Keep => " keep".to_owned(),
        };
        format!("if {condition} {}{by}{expiry}", self.action.name())
    }
}

impl Operation {
    fn validate(&self) -> Result<()> {
        let ttl = |rule: &str| Err(Error::invalid(Subject::Ttl, rule));
        match (&self.action, self.expiry) {
            (_, Expiry::After(span)) if !(TTL_MIN..=TTL_MAX).contains(&span) => {
                ttl("it must be from 1 to 315360000 seconds (10 years)")
            }
            (Action::Delete | Action::Check, Expiry::After(_) | Expiry::Keep) => {
                ttl("a delete or a check leaves nothing behind that could expire")
            }
            (Action::Touch, Expiry::Keep) => ttl("a touch needs a new one"),
            (Action::Check, Expiry::Never) if self.condition == Condition::Any => {
                Err(Error::invalid(Subject::Batch, "a check needs a condition"))
            }
            _ => Ok(()),
        }
    }
}

impl Action {
    /// Returns its name: `set`, `delete`, `add`, `merge`, `touch` or `check`.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Set { .. } => "set",
            Self::Delete => "delete",
            Self::Add { .. } => "add",
            Self::Merge { .. } => "merge",
            Self::Touch => "touch",
            Self::Check => "check",
        }
    }

    /// Returns the JSON text that it carries.
    fn text(&self) -> Option<&Value> {
        match self {
            Self::Set { value } => Some(value),
            Self::Merge { patch, .. } => Some(patch),
            Self::Delete | Self::Add { .. } | Self::Touch | Self::Check => None,
        }
    }
}

impl From<Operation> for Command {
    fn from(operation: Operation) -> Self {
        Self::One(operation)
    }
}

impl Command {
    /// Returns the name of its [`Action`], or `batch`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::One(operation) => operation.action.name(),
            Self::Batch(_) => "batch",
        }
    }

    /// Returns its operations.
    pub fn operations(&self) -> &[Operation] {
        match self {
            Self::One(operation) => std::slice::from_ref(operation),
            Self::Batch(operations) => operations,
        }
    }

    /// Limits the size of the results of its merges.
    pub(crate) fn bound_merges(&mut self, limit: usize) {
        let operations = match self {
            Self::One(operation) => std::slice::from_mut(operation),
            Self::Batch(operations) => operations,
        };
        for operation in operations {
            if let Action::Merge { bytes_max, .. } = &mut operation.action {
                *bytes_max = limit;
            }
        }
    }

    /// Returns true if it may take up more space than before; a delete never does.
    pub(crate) fn takes_room(&self) -> bool {
        self.operations()
            .iter()
            .any(|operation| !matches!(operation.action, Action::Delete | Action::Check))
    }

    /// Returns the key, or the first key of a batch, which determines the partition.
    ///
    /// # Panics
    /// On a batch without operations, which [`Command::check`] rejects.
    pub fn first_key(&self) -> &Key {
        &self
            .operations()
            .first()
            .expect("a command has an operation")
            .key
    }

    /// Returns the size of its keys, values and patches, in bytes.
    pub fn size_bytes(&self) -> usize {
        self.operations()
            .iter()
            .map(|operation| {
                operation.key.as_str().len() + operation.action.text().map_or(0, Value::len)
            })
            .sum()
    }

    /// Returns the fingerprint that identifies retries: equal for equal requests, different for all
    /// others.
    ///
    /// Queues store it, so its definition is part of their formats: the hash of the name and, for
    /// each operation, of its key, its terms and its value or patch, if it has one.
    pub fn fingerprint(&self) -> Fingerprint {
        let terms: Vec<String> = self.operations().iter().map(Operation::terms).collect();
        let mut parts = vec![self.name().as_bytes()];
        for (operation, terms) in self.operations().iter().zip(&terms) {
            parts.extend([operation.key.as_str().as_bytes(), terms.as_bytes()]);
            parts.extend(operation.action.text().map(Value::as_bytes));
        }
        Fingerprint::of(&parts)
    }

    /// Checks that a queue with `partitions` may hold it; every queue checks this before it accepts
    /// a job.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a time to live outside [`TTL_MIN`] to [`TTL_MAX`] or on an operation
    /// that takes none, for a check without a condition, and for a batch that is empty or names a
    /// key twice; [`Error::TooLarge`] for a batch of more than [`BATCH_OPERATIONS_MAX`] operations;
    /// [`Error::CrossPartition`] if its keys have no common order.
    pub fn check(&self, partitions: PartitionCount) -> Result<()> {
        for operation in self.operations() {
            operation.validate()?;
        }
        let Self::Batch(operations) = self else {
            return Ok(());
        };
        let Some(first) = operations.first() else {
            return Err(Error::invalid(
                Subject::Batch,
                "it must hold at least one operation",
            ));
        };
        if operations.len() > BATCH_OPERATIONS_MAX {
            return Err(Error::TooLarge {
                subject: Subject::Batch,
                limit: BATCH_OPERATIONS_MAX as u64,
                unit: Unit::Operations,
            });
        }
        let mut keys = HashSet::with_capacity(operations.len());
        if let Some(twice) = operations
            .iter()
            .find(|operation| !keys.insert(&operation.key))
        {
            return Err(Error::invalid(
                Subject::Batch,
                format!("it names key {:?} twice", twice.key),
            ));
        }
        let partition = partitions.partition_of(&first.key);
        match operations
            .iter()
            .find(|operation| partitions.partition_of(&operation.key) != partition)
        {
            None => Ok(()),
            Some(other) => Err(Error::CrossPartition {
                first: first.key.clone(),
                other: other.key.clone(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::new(name).unwrap()
    }

    fn set(name: &str, number: u64) -> Operation {
        Operation::set(key(name), Value::from_serialize(&number).unwrap())
    }

    fn set_for(expiry: Expiry) -> Operation {
        Operation {
            expiry,
            ..set("k", 1)
        }
    }

    fn patch() -> Value {
        Value::parse(r#"{"a":1}"#).unwrap()
    }

    #[test]
    fn a_fingerprint_is_part_of_the_format() {
        let minute = Duration::from_secs(60);
        let of = |command: Command, parts: &[&[u8]]| {
            assert_eq!(command.fingerprint(), Fingerprint::of(parts), "{command:?}");
        };
        of(
            set("k", 1)
                .if_version(Version(42))
                .expires_after(minute)
                .into(),
            &[b"set", b"k", b"if 42 set for 60000 ms", b"1"],
        );
        of(
            Operation::add(key("k"), -5).expires_after(minute).into(),
            &[b"add", b"k", b"if any add -5 for 60000 ms"],
        );
        of(
            Operation::merge(key("k"), patch()).if_present().into(),
            &[b"merge", b"k", b"if present merge keep", br#"{"a":1}"#],
        );
        of(
            Operation::touch(key("k"), minute).into(),
            &[b"touch", b"k", b"if any touch for 60000 ms"],
        );
        of(
            Command::Batch(vec![
                Operation::delete(key("k")),
                set_for(Expiry::Keep),
                Operation::check(key("c")).if_absent(),
            ]),
            &[
                b"batch",
                b"k",
                b"if any delete",
                b"k",
                b"if any set keep",
                b"1",
                b"c",
                b"if absent check",
            ],
        );
        // The hash itself: the first half of SHA-256 over each part, preceded by its length in
        // eight bytes.
        assert_eq!(
            Fingerprint::of(&[]).to_string(),
            "e3b0c44298fc1c149afbf4c8996fb924"
        );
    }

    #[test]
    fn a_batch_of_one_is_a_different_request_than_the_operation_alone() {
        let alone = Command::One(set("k", 1)).fingerprint();
        assert_ne!(alone, Command::Batch(vec![set("k", 1)]).fingerprint());
    }

    #[test]
    fn check_rejects_what_no_queue_may_hold() {
        let invalid = |command: Command| {
            let answer = command.check(PartitionCount::ONE);
            assert!(matches!(answer, Err(Error::Invalid { .. })), "{answer:?}");
        };
        invalid(Command::Batch(Vec::new()));
        invalid(Command::Batch(vec![
            set("k", 1),
            Operation::delete(key("k")),
        ]));
        for span in [
            Duration::ZERO,
            TTL_MIN - Duration::from_nanos(1),
            TTL_MAX + Duration::from_nanos(1),
        ] {
            invalid(Command::One(set_for(Expiry::After(span))));
        }
        for operation in [
            Operation::check(key("k")),
            Operation::check(key("k")).if_present().keep_ttl(),
            Operation::delete(key("k")).expires_after(TTL_MIN),
            Operation::touch(key("k"), TTL_MIN).keep_ttl(),
            Operation::touch(key("k"), Duration::ZERO),
        ] {
            invalid(operation.clone().into());
            invalid(Command::Batch(vec![set("other", 1), operation]));
        }
        for operation in [
            set_for(Expiry::After(TTL_MIN)),
            set_for(Expiry::After(TTL_MAX)),
            Operation::check(key("k")).if_absent(),
            Operation::add(key("k"), i64::MIN).keep_ttl(),
            Operation::merge(key("k"), patch()).expires_after(TTL_MAX),
        ] {
            assert!(Command::One(operation).check(PartitionCount::ONE).is_ok());
        }
    }

    #[test]
    fn the_bound_on_a_merge_is_not_part_of_its_fingerprint() {
        let mut bounded = Command::One(Operation::merge(key("k"), patch()));
        let fingerprint = bounded.fingerprint();
        bounded.bound_merges(7);
        assert!(matches!(
            bounded.operations()[0].action,
            Action::Merge { bytes_max: 7, .. }
        ));
        assert_eq!(bounded.fingerprint(), fingerprint);
    }

    #[test]
    fn check_counts_the_operations_of_a_batch() {
        let batch = |count: usize| {
            let operations = (0..count).map(|number| set(&format!("key {number}"), 1));
            Command::Batch(operations.collect()).check(PartitionCount::ONE)
        };
        assert!(batch(BATCH_OPERATIONS_MAX).is_ok());
        assert!(matches!(
            batch(BATCH_OPERATIONS_MAX + 1),
            Err(Error::TooLarge { limit: 1000, .. })
        ));
    }

    #[test]
    fn check_requires_the_keys_of_a_batch_to_be_in_one_partition() {
        let partitions = PartitionCount::new(64).unwrap();
        let batch = |names: [&str; 2]| Command::Batch(names.map(|name| set(name, 1)).into());
        assert!(batch(["{t}a", "b{t}"]).check(partitions).is_ok());
        assert_ne!(
            partitions.partition_of(&key("a")),
            partitions.partition_of(&key("b"))
        );
        match batch(["a", "b"]).check(partitions) {
            Err(Error::CrossPartition { first, other }) => {
                assert_eq!((first, other), (key("a"), key("b")))
            }
            answer => panic!("{answer:?}"),
        }
        assert!(batch(["a", "b"]).check(PartitionCount::ONE).is_ok());
    }
}
