//! A record as a line of the journal: what one commit did.
//!
//! `{"v":41,"t":1767225600000,"w":[["user:1",{"name":"Ada"}],["b",1,1767225700000],["c"]]}`: behind version 41, at that
//! time, a set, a set with a deadline, and a delete. `x` are keys that expired, `q` is how far a queue is applied, `adopt`
//! and `forget` are an operator's, and `opened` is the version behind which an opening numbers.
//! `idem` is what is remembered of the request of a job that was applied when it was accepted.

use std::fmt;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::in_memory::log::Remembered;
use crate::in_memory::state::{Advanced, Record};
use crate::model::entry::{Timestamp, Version};
use crate::model::id::{JobId, QueueId};
use crate::model::key::Key;
use crate::model::value::Value;
use crate::model::write::{Change, Write};

/// The line of `record`, without its closing brace and its CRC.
pub(crate) fn encode(record: &Record) -> Vec<u8> {
    let mut line = format!("{{\"v\":{},\"t\":{}", record.before, record.at.0).into_bytes();
    if !record.writes.is_empty() {
        line.extend_from_slice(b",\"w\":[");
        for (index, write) in record.writes.iter().enumerate() {
            line.extend_from_slice(if index == 0 { b"[" } else { b",[" });
            push_json(&mut line, &write.key);
            // The value is copied as it is: no writer of JSON could be trusted with its bytes.
            if let Some((value, expires_at)) = write.change.value_at(record.at) {
                line.push(b',');
                line.extend_from_slice(value.as_bytes());
                if let Some(deadline) = expires_at {
                    line.extend_from_slice(format!(",{}", deadline.0).as_bytes());
                }
            }
            line.push(b']');
        }
        line.push(b']');
    }
    if !record.expired.is_empty() {
        push_member(&mut line, "x", &record.expired);
    }
    if let Some(advance) = &record.advance {
        push_member(&mut line, "q", advance);
    }
    if let Some(queue) = &record.adopt {
        push_member(&mut line, "adopt", queue);
    }
    if let Some(job) = &record.forget {
        push_member(&mut line, "forget", job);
    }
    if let Some(version) = &record.opened {
        push_member(&mut line, "opened", version);
    }
    line
}

pub(crate) fn push_member(line: &mut Vec<u8>, name: &str, value: &impl Serialize) {
    line.extend_from_slice(format!(",\"{name}\":").as_bytes());
    push_json(line, value);
}

pub(crate) fn push_json(line: &mut Vec<u8>, value: &impl Serialize) {
    serde_json::to_writer(line, value).expect("what is kept has JSON, and memory takes it");
}

/// As [`encode`], of a job that was applied when it was accepted, with what is remembered of its request.
pub(crate) fn encode_job(record: &Record, remembered: Option<&Remembered>) -> Vec<u8> {
    let mut line = encode(record);
    if let Some(remembered) = remembered {
        push_member(&mut line, "idem", remembered);
    }
    line
}

/// Reads a line back.
pub(crate) fn decode(line: &[u8]) -> serde_json::Result<Record> {
    decode_job(line).map(|(record, _)| record)
}

/// Reads a line back, with what is remembered of a request.
pub(crate) fn decode_job(line: &[u8]) -> serde_json::Result<(Record, Option<Remembered>)> {
    let text: RecordText = serde_json::from_slice(line)?;
    let record = Record {
        before: text.before,
        at: text.at,
        writes: text
            .writes
            .into_iter()
            .map(|WriteText(write)| write)
            .collect(),
        expired: text.expired,
        advance: text.advance,
        adopt: text.adopt,
        forget: text.forget,
        opened: text.opened,
    };
    Ok((record, text.idem))
}

#[derive(Deserialize)]
struct RecordText {
    #[serde(rename = "v")]
    before: Version,
    #[serde(rename = "t")]
    at: Timestamp,
    #[serde(rename = "w", default)]
    writes: Vec<WriteText>,
    #[serde(rename = "x", default)]
    expired: Vec<Key>,
    #[serde(rename = "q")]
    advance: Option<Advanced>,
    adopt: Option<QueueId>,
    forget: Option<JobId>,
    opened: Option<Version>,
    idem: Option<Remembered>,
}

struct WriteText(Write);

impl<'de> Deserialize<'de> for WriteText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneToThree;

        impl<'de> Visitor<'de> for OneToThree {
            type Value = WriteText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key, perhaps a value, perhaps a deadline")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut members: A) -> Result<WriteText, A::Error> {
                let key = members
                    .next_element()?
                    .ok_or_else(|| serde::de::Error::invalid_length(0, &self))?;
                let change = match members.next_element::<&RawValue>()? {
                    None => Change::Delete,
                    Some(value) => Change::Set {
                        value: Value::trusted(value.get().to_owned().into()),
                        expires_at: members.next_element()?,
                    },
                };
                Ok(WriteText(Write { key, change }))
            }
        }

        deserializer.deserialize_seq(OneToThree)
    }
}
