//! Commands and outcomes as JSON, for backends that write them down: one text for each, readable by people.
//!
//! `{"set":"user:1","value":{"name":"Ada"},"ttl_ms":"1000","if":"42"}` · `{"delete":"user:1"}` · `{"batch":[…]}`

use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::model::command::{Action, Command, Expiry, Operation};
use crate::model::entry::Version;
use crate::model::job::{Applied, Dead, Failed, Outcome, Succeeded, Summary};
use crate::model::key::Key;
use crate::model::value::Value;
use crate::model::write::Condition;

/// With `serde_json` only: other formats have no raw text.
impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let raw: &RawValue =
            serde_json::from_slice(self.as_bytes()).map_err(serde::ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

/// Checked as by [`Value::parse`]. With `serde_json` only: other formats have no raw text. In an `Option`, a `null` is `None`.
impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        Self::parse(String::from(Box::<str>::from(raw))).map_err(D::Error::custom)
    }
}

#[derive(Serialize, Deserialize)]
struct OperationText {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    set: Option<Key>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    delete: Option<Key>,
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    value: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ttl_ms: Option<String>,
    #[serde(default, rename = "if", skip_serializing_if = "Option::is_none")]
    condition: Option<String>,
}

/// A member that is there is there, also if it is `null`.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

impl From<&Operation> for OperationText {
    fn from(operation: &Operation) -> Self {
        let mut text = Self {
            set: None,
            delete: None,
            value: None,
            ttl_ms: None,
            condition: None,
        };
        text.condition = match operation.condition {
            Condition::Any => None,
            Condition::Absent => Some("absent".to_owned()),
            Condition::Present => Some("present".to_owned()),
            Condition::Version(version) => Some(version.to_string()),
        };
        match &operation.action {
            Action::Delete => text.delete = Some(operation.key.clone()),
            Action::Set { value, expiry } => {
                text.set = Some(operation.key.clone());
                text.value = Some(value.clone());
                text.ttl_ms = match expiry {
                    Expiry::Never => None,
                    Expiry::Keep => Some("keep".to_owned()),
                    Expiry::After(span) => Some(span.as_millis().to_string()),
                };
            }
        }
        text
    }
}

impl TryFrom<OperationText> for Operation {
    type Error = &'static str;

    fn try_from(text: OperationText) -> Result<Self, Self::Error> {
        let condition = match text.condition.as_deref() {
            None => Condition::Any,
            Some("absent") => Condition::Absent,
            Some("present") => Condition::Present,
            Some(version) => Condition::Version(Version(
                version.parse().map_err(|_| "an unknown condition")?,
            )),
        };
        match (text.set, text.value, text.delete) {
            (Some(key), Some(value), None) => {
                let expiry = match text.ttl_ms.as_deref() {
                    None => Expiry::Never,
                    Some("keep") => Expiry::Keep,
                    Some(span) => Expiry::After(Duration::from_millis(
                        span.parse().map_err(|_| "an unknown time to live")?,
                    )),
                };
                Ok(Self {
                    key,
                    condition,
                    action: Action::Set { value, expiry },
                })
            }
            (None, None, Some(key)) => Ok(Self {
                key,
                condition,
                action: Action::Delete,
            }),
            _ => Err("neither a set nor a delete"),
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
        struct Text {
            batch: Option<Vec<Operation>>,
        }
        // Read twice: raw text does not pass through the buffer that an untagged enum would use.
        let raw = <&RawValue>::deserialize(deserializer)?;
        let text: Text = serde_json::from_str(raw.get()).map_err(D::Error::custom)?;
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
                current,
            }) => OutcomeText::Failed {
                job,
                operation,
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
                current,
            } => Self::Failed(Failed {
                summary,
                operation,
                current,
            }),
            OutcomeText::Dead(dead) => Self::Dead(dead),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    #[test]
    fn commands_come_back_as_they_were() {
        let set = |value: &'static str, expiry| Operation {
            key: key("k\"é"),
            condition: Condition::Version(Version(7)),
            action: Action::Set {
                value: Value::parse(value).unwrap(),
                expiry,
            },
        };
        for command in [
            Command::One(set("null", Expiry::Never)),
            Command::One(set(r#"{"a":1.0,"a":1e400,"batch":[]}"#, Expiry::Keep)),
            Command::One(Operation {
                condition: Condition::Absent,
                ..Operation::delete(key("a"))
            }),
            Command::Batch(vec![
                set(
                    r#""\u0000é\u00e9""#,
                    Expiry::After(Duration::from_millis(1500)),
                ),
                Operation {
                    condition: Condition::Present,
                    ..Operation::delete(key("b"))
                },
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
    fn outcomes_come_back_as_they_were() {
        let summary = Summary {
            name: "set".into(),
            key: key("a"),
            common: None,
        };
        let writes = vec![Applied {
            version: Version(4),
            existed: true,
        }];
        for outcome in [
            Outcome::Succeeded(None),
            Outcome::Succeeded(Some(Succeeded {
                summary: summary.clone(),
                writes,
            })),
            Outcome::Failed(Failed {
                summary,
                operation: 2,
                current: None,
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
