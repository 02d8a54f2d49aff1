//! Commands and outcomes as human-readable JSON, for backends that store them: one text for each.
//!
//! `{"set":"user:1","value":{"name":"Ada"},"ttl_ms":"1000","if":"42"}` · `{"delete":"user:1"}` ·
//! `{"add":"hits","by":"1"}` ·
//! `{"merge":"user:1","patch":{"age":36},"max":"1048576","ttl_ms":"keep"}` ·
//! `{"touch":"user:1","ttl_ms":"1000"}` · `{"check":"user:1","if":"present"}` · `{"batch":[…]}`

use std::str::FromStr;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::model::command::{Action, Command, Expiry, Operation};
use crate::model::entry::Version;
use crate::model::job::{Applied, Dead, Failed, Failure, Outcome, Succeeded, Summary};
use crate::model::key::Key;
use crate::model::value::Value;
use crate::model::write::Condition;

/// Works with `serde_json` only: other formats have no raw text.
impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let raw: &RawValue =
            serde_json::from_slice(self.as_bytes()).map_err(serde::ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

/// Checks like [`Value::parse`]. Works with `serde_json` only: other formats have no raw text. In
/// an `Option`, a `null` is `None`.
impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        Self::parse(String::from(Box::<str>::from(raw))).map_err(D::Error::custom)
    }
}

/// An operation as text. The action is the member that holds the key.
#[derive(Default, Serialize, Deserialize)]
struct OperationText {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    set: Option<Key>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    delete: Option<Key>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    add: Option<Key>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    merge: Option<Key>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    touch: Option<Key>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    check: Option<Key>,
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    value: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    patch: Option<Value>,
    /// The largest result of a merge, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ttl_ms: Option<String>,
    #[serde(default, rename = "if", skip_serializing_if = "Option::is_none")]
    condition: Option<String>,
}

/// Deserialises a member that is present, even if it is `null`.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

impl From<&Operation> for OperationText {
    fn from(operation: &Operation) -> Self {
        let mut text = Self {
            condition: operation.condition.to_text(),
            ttl_ms: match operation.expiry {
                Expiry::Never => None,
                Expiry::Keep => Some("keep".to_owned()),
                Expiry::After(span) => Some(span.as_millis().to_string()),
            },
            ..Self::default()
        };
        let key = Some(operation.key.clone());
        match &operation.action {
            Action::Set { value } => (text.set, text.value) = (key, Some(value.clone())),
            Action::Delete => text.delete = key,
            Action::Add { by } => (text.add, text.by) = (key, Some(by.to_string())),
            Action::Merge { patch, bytes_max } => {
                (text.merge, text.patch) = (key, Some(patch.clone()));
                text.max = Some(bytes_max.to_string());
            }
            Action::Touch => text.touch = key,
            Action::Check => text.check = key,
        }
        text
    }
}

impl TryFrom<OperationText> for Operation {
    type Error = &'static str;

    fn try_from(text: OperationText) -> Result<Self, Self::Error> {
        fn number<T: FromStr>(text: Option<&str>) -> Result<T, &'static str> {
            text.and_then(|text| text.parse().ok())
                .ok_or("a number is missing or malformed")
        }
        let condition = text.condition.as_deref().map(Condition::from_text);
        let condition = condition.transpose().map_err(|_| "no condition")?;
        let condition = condition.unwrap_or_default();
        let expiry = match text.ttl_ms.as_deref() {
            None => Expiry::Never,
            Some("keep") => Expiry::Keep,
            span => Expiry::After(Duration::from_millis(number(span)?)),
        };
        let mut actions = Vec::with_capacity(1);
        if let Some(key) = text.set {
            let value = text.value.ok_or("a set without a value")?;
            actions.push((key, Action::Set { value }));
        }
        actions.extend(text.delete.map(|key| (key, Action::Delete)));
        if let Some(key) = text.add {
            let by = number(text.by.as_deref())?;
            actions.push((key, Action::Add { by }));
        }
        if let Some(key) = text.merge {
            let patch = text.patch.ok_or("a merge without a patch")?;
            let bytes_max = number(text.max.as_deref())?;
            actions.push((key, Action::Merge { patch, bytes_max }));
        }
        actions.extend(text.touch.map(|key| (key, Action::Touch)));
        actions.extend(text.check.map(|key| (key, Action::Check)));
        match <[_; 1]>::try_from(actions) {
            Ok([(key, action)]) => Ok(Self {
                key,
                condition,
                action,
                expiry,
            }),
            Err(_) => Err("expected exactly one action on one key"),
        }
    }
}

impl Serialize for Operation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        OperationText::from(self).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Operation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        OperationText::deserialize(deserializer)?
            .try_into()
            .map_err(D::Error::custom)
    }
}

#[derive(Serialize)]
struct BatchText<'a> {
    batch: &'a [Operation],
}

impl Serialize for Command {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::One(operation) => operation.serialize(serializer),
            Self::Batch(operations) => BatchText { batch: operations }.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Command {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct CommandText {
            batch: Option<Vec<Operation>>,
        }
        // Read twice: raw text does not pass through the buffer that an untagged enum would use.
        let raw = <&RawValue>::deserialize(deserializer)?;
        let text: CommandText = serde_json::from_str(raw.get()).map_err(D::Error::custom)?;
        match text.batch {
            Some(operations) => Ok(Self::Batch(operations)),
            None => serde_json::from_str(raw.get())
                .map(Self::One)
                .map_err(D::Error::custom),
        }
    }
}

#[derive(Serialize, Deserialize)]
enum OutcomeText {
    #[serde(rename = "succeeded")]
    Succeeded { job: Summary, writes: Vec<Applied> },
    #[serde(rename = "passed")]
    Passed,
    #[serde(rename = "failed")]
    Failed {
        job: Summary,
        operation: usize,
        #[serde(default, skip_serializing_if = "Failure::is_condition")]
        reason: Failure,
        current: Option<Version>,
    },
    #[serde(rename = "dead")]
    Dead(Dead),
}

impl Serialize for Outcome {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = match self.clone() {
            Self::Succeeded(Some(Succeeded {
                summary: job,
                writes,
            })) => OutcomeText::Succeeded { job, writes },
            Self::Succeeded(None) => OutcomeText::Passed,
            Self::Failed(Failed {
                summary: job,
                operation,
                reason,
                current,
            }) => OutcomeText::Failed {
                job,
                operation,
                reason,
                current,
            },
            Self::Dead(dead) => OutcomeText::Dead(dead),
        };
        text.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Outcome {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match OutcomeText::deserialize(deserializer)? {
            OutcomeText::Succeeded {
                job: summary,
                writes,
            } => Self::Succeeded(Some(Succeeded { summary, writes })),
            OutcomeText::Passed => Self::Succeeded(None),
            OutcomeText::Failed {
                job: summary,
                operation,
                reason,
                current,
            } => Self::Failed(Failed {
                summary,
                operation,
                reason,
                current,
            }),
            OutcomeText::Dead(dead) => Self::Dead(dead),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::entry::Timestamp;
    use crate::model::job::Computed;

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    #[test]
    fn commands_survive_a_round_trip() {
        let set = |value: &'static str| {
            Operation::set(key("k\"é"), Value::parse(value).unwrap()).if_version(Version(7))
        };
        let patch = Value::parse(r#"{"a":null,"b":1.0,"b":"\u00e9"}"#).unwrap();
        let mut bounded = Command::One(Operation::merge(key("m"), patch.clone()));
        bounded.bound_merges(usize::MAX);
        for command in [
            set("null").into(),
            set(r#"{"a":1.0,"a":1e400,"batch":[]}"#).keep_ttl().into(),
            Operation::delete(key("a")).if_absent().into(),
            Operation::add(key("a"), i64::MIN).into(),
            bounded,
            Operation::merge(key("m"), Value::parse("null").unwrap()).into(),
            Command::Batch(vec![
                set(r#""\u0000é\u00e9""#).expires_after(Duration::from_millis(1500)),
                Operation::delete(key("b")).if_present(),
                Operation::add(key("c"), i64::MAX).expires_after(Duration::from_secs(1)),
                Operation::merge(key("d"), patch).if_absent(),
                Operation::touch(key("e"), Duration::from_secs(9)).if_version(Version(u64::MAX)),
                Operation::check(key("f")).if_present(),
                Operation::check(key("g")).under(Condition::one_of(&[Version(1), Version(2)])),
                Operation::check(key("h")).under(Condition::none_of(&[Version(1)], true)),
                Operation::check(key("i"))
                    .under(Condition::none_of(&[Version(1), Version(2)], false)),
            ]),
        ] {
            let text = serde_json::to_string(&command).unwrap();
            assert_eq!(
                serde_json::from_str::<Command>(&text).unwrap(),
                command,
                "{text}"
            );
            let dead = Outcome::Dead(Dead {
                reason: "no".into(),
                attempts: 3,
                command,
            });
            let text = serde_json::to_string(&dead).unwrap();
            assert_eq!(
                serde_json::from_str::<Outcome>(&text).unwrap(),
                dead,
                "{text}"
            );
        }
    }

    #[test]
    fn texts_that_are_no_command_are_rejected() {
        for text in [
            "{}",
            r#"{"set":"a"}"#,
            r#"{"set":"a","delete":"a","value":1}"#,
            r#"{"set":"a","value":1,"if":"x"}"#,
            r#"{"set":"a","value":1,"if":"1,"}"#,
            r#"{"set":"a","value":1,"if":"absent not 1"}"#,
            r#"{"set":"a","value":1,"ttl_ms":"-1"}"#,
            r#"{"add":"a"}"#,
            r#"{"add":"a","by":"9223372036854775808"}"#,
            r#"{"merge":"a","patch":{}}"#,
            r#"{"merge":"a","max":"1"}"#,
            r#"{"touch":"a","check":"b"}"#,
            r#"{"batch":[{}]}"#,
        ] {
            assert!(serde_json::from_str::<Command>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn outcomes_survive_a_round_trip() {
        let summary = Summary {
            name: "set".into(),
            key: key("a"),
            common: None,
        };
        let applied = |number, expires_at| Applied {
            version: Version(4),
            existed: true,
            computed: Computed { number, expires_at },
        };
        let writes = vec![
            applied(None, None),
            applied(Some(i64::MIN), Some(Timestamp(9))),
        ];
        let failed = |reason| {
            Outcome::Failed(Failed {
                summary: summary.clone(),
                operation: 2,
                reason,
                current: None,
            })
        };
        for outcome in [
            Outcome::Succeeded(None),
            Outcome::Succeeded(Some(Succeeded {
                summary: summary.clone(),
                writes,
            })),
            failed(Failure::Condition),
            failed(Failure::NotInteger),
            failed(Failure::Overflow),
            failed(Failure::NotFound),
            failed(Failure::TooLarge {
                limit_bytes: 1 << 20,
            }),
        ] {
            let text = serde_json::to_string(&outcome).unwrap();
            assert_eq!(
                serde_json::from_str::<Outcome>(&text).unwrap(),
                outcome,
                "{text}"
            );
        }
    }
}
