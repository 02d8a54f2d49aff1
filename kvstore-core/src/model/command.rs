//! What a client asks for.

use std::collections::HashSet;
use std::time::Duration;

use crate::error::{Error, Result, Subject, Unit};
use crate::limits::{BATCH_OPERATIONS_MAX, TTL_MAX, TTL_MIN};
use crate::model::id::{Fingerprint, PartitionCount};
use crate::model::key::Key;
use crate::model::value::Value;
use crate::model::write::Condition;

/// What one job does: one operation, or several that take effect together or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A single operation.
    One(Operation),
    /// Several, each on another key.
    Batch(Vec<Operation>),
}

/// One change that a client asks for, under a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// The key.
    pub key: Key,
    /// What must hold when its turn comes.
    pub condition: Condition,
    /// What to do then.
    pub action: Action,
}

/// What an [`Operation`] does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Give the key a value.
    Set {
        /// The value.
        value: Value,
        /// How long it lives.
        expiry: Expiry,
    },
    /// Make the key absent.
    Delete,
}

/// How long a value lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expiry {
    /// For ever.
    #[default]
    Never,
    /// This long from the moment the queue accepted the write, by the queue's clock: time in the queue does not prolong life.
    After(Duration),
    /// As long as the entry that it replaces; for ever if there is none.
    Keep,
}

impl Operation {
    /// Gives `key` the `value`, for ever and whatever was there.
    pub fn set(key: Key, value: Value) -> Self {
        Self {
            key,
            condition: Condition::Any,
            action: Action::Set {
                value,
                expiry: Expiry::Never,
            },
        }
    }

    /// Makes `key` absent, whatever was there.
    pub fn delete(key: Key) -> Self {
        Self {
            key,
            condition: Condition::Any,
            action: Action::Delete,
        }
    }

    /// Whether what it does depends on the entry that is there.
    pub(crate) fn depends_on_entry(&self) -> bool {
        self.condition != Condition::Any
            || matches!(
                self.action,
                Action::Set {
                    expiry: Expiry::Keep,
                    ..
                }
            )
    }

    /// All of it but key and value, as text: one for each meaning.
    fn terms(&self) -> String {
        let condition = match self.condition {
            Condition::Any => "any".to_owned(),
            Condition::Absent => "absent".to_owned(),
            Condition::Present => "present".to_owned(),
            Condition::Version(version) => format!("version {version}"),
        };
        let action = match &self.action {
            Action::Delete => "delete".to_owned(),
            Action::Set { expiry, .. } => match expiry {
                Expiry::Never => "set".to_owned(),
                Expiry::After(span) => format!("set for {} ms", span.as_millis()),
                Expiry::Keep => "set keep".to_owned(),
            },
        };
        format!("if {condition} {action}")
    }
}

impl Command {
    /// `set`, `delete` or `batch`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::One(Operation {
                action: Action::Set { .. },
                ..
            }) => "set",
            Self::One(Operation {
                action: Action::Delete,
                ..
            }) => "delete",
            Self::Batch(_) => "batch",
        }
    }

    /// Its operations.
    pub fn operations(&self) -> &[Operation] {
        match self {
            Self::One(operation) => std::slice::from_ref(operation),
            Self::Batch(operations) => operations,
        }
    }

    /// The key, or the first of a batch: what puts it into a partition.
    ///
    /// # Panics
    /// On a batch without operations, which [`Command::check`] refuses.
    pub fn first_key(&self) -> &Key {
        &self
            .operations()
            .first()
            .expect("a command has an operation")
            .key
    }

    /// Keys and values, in bytes.
    pub fn size_bytes(&self) -> usize {
        self.operations()
            .iter()
            .map(|operation| {
                operation.key.as_str().len()
                    + match &operation.action {
                        Action::Set { value, .. } => value.len(),
                        Action::Delete => 0,
                    }
            })
            .sum()
    }

    /// What a retry is recognised by: equal for commands that ask for the same, different for all others.
    ///
    /// Queues write it down, so how it is made is part of their formats: the hash of the name, and for each operation of its
    /// key, its terms and, if it sets one, its value.
    pub fn fingerprint(&self) -> Fingerprint {
        let terms: Vec<String> = self.operations().iter().map(Operation::terms).collect();
        let mut parts = vec![self.name().as_bytes()];
        for (operation, terms) in self.operations().iter().zip(&terms) {
            parts.extend([operation.key.as_str().as_bytes(), terms.as_bytes()]);
            if let Action::Set { value, .. } = &operation.action {
                parts.push(value.as_bytes());
            }
        }
        Fingerprint::of(&parts)
    }

    /// Whether it may stand in a queue of `partitions`: every queue asks this before it accepts.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a time to live outside [`TTL_MIN`] to [`TTL_MAX`], and for a batch that is empty or names a
    /// key twice, [`Error::TooLarge`] for one of more than [`BATCH_OPERATIONS_MAX`] operations, [`Error::CrossPartition`]
    /// if its keys have no common order.
    pub fn check(&self, partitions: PartitionCount) -> Result<()> {
        let lives = |operation: &Operation| match operation.action {
            Action::Set {
                expiry: Expiry::After(span),
                ..
            } => (TTL_MIN..=TTL_MAX).contains(&span),
            _ => true,
        };
        if !self.operations().iter().all(lives) {
            return Err(Error::invalid(
                Subject::Ttl,
                "it must be from 1 to 315360000 seconds (10 years)",
            ));
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
                format!("key {:?} stands in it twice", twice.key),
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
    use crate::model::entry::Version;

    fn key(name: &str) -> Key {
        Key::new(name).unwrap()
    }

    fn set(name: &str, number: u64) -> Operation {
        Operation::set(key(name), Value::from_serialize(&number).unwrap())
    }

    fn set_for(expiry: Expiry) -> Operation {
        Operation {
            action: Action::Set {
                value: Value::from_serialize(&1).unwrap(),
                expiry,
            },
            ..set("k", 1)
        }
    }

    #[test]
    fn a_fingerprint_is_part_of_the_format() {
        let operation = Operation {
            condition: Condition::Version(Version(42)),
            ..set_for(Expiry::After(Duration::from_secs(60)))
        };
        assert_eq!(
            Command::One(operation).fingerprint(),
            Fingerprint::of(&[b"set", b"k", b"if version 42 set for 60000 ms", b"1"])
        );
        assert_eq!(
            Command::Batch(vec![Operation::delete(key("k")), set_for(Expiry::Keep)]).fingerprint(),
            Fingerprint::of(&[
                b"batch",
                b"k",
                b"if any delete",
                b"k",
                b"if any set keep",
                b"1"
            ])
        );
        // The hash itself: the first half of SHA-256 over each part behind its length, in eight bytes.
        assert_eq!(
            Fingerprint::of(&[]).to_string(),
            "e3b0c44298fc1c149afbf4c8996fb924"
        );
    }

    #[test]
    fn a_batch_of_one_is_another_request_than_the_operation_alone() {
        let alone = Command::One(set("k", 1)).fingerprint();
        assert_ne!(alone, Command::Batch(vec![set("k", 1)]).fingerprint());
    }

    #[test]
    fn check_refuses_what_no_queue_may_hold() {
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
        for span in [TTL_MIN, TTL_MAX] {
            let command = Command::One(set_for(Expiry::After(span)));
            assert!(command.check(PartitionCount::ONE).is_ok());
        }
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
    fn check_wants_the_keys_of_a_batch_in_one_partition() {
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
