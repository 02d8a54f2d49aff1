//! Does a record decode from its line as it was encoded?

use crate::in_memory::log::Remembered;
use crate::in_memory::state::{Advanced, Record};
use crate::json_file::journal::record::*;
use crate::model::command::{Command, Operation};
use crate::model::entry::{Timestamp, Version};
use crate::model::id::{Fingerprint, JobId, Partition, Position, QueueId};
use crate::model::job::{Applied, Computed, Job, Outcome, Succeeded, Summary};
use crate::model::key::Key;
use crate::model::value::Value;
use crate::model::write::{Change, Write};

#[test]
fn a_record_comes_back_as_it_was() {
    let key = |text| Key::new(text).unwrap();
    let set = |name, value: &'static str, expires_at| Write {
        key: key(name),
        change: Change::Set {
            value: Value::parse(value).unwrap(),
            expires_at,
        },
    };
    let queue = QueueId::random();
    let summary = Summary {
        name: "set".into(),
        key: key("a"),
        common: None,
    };
    let writes = vec![Applied {
        version: Version(42),
        existed: true,
        computed: Computed {
            number: Some(-1),
            expires_at: Some(Timestamp(7)),
        },
    }];
    let full = Record {
        writes: vec![
            set("a", "null", None),
            set("é\"\\", "1e400", Some(Timestamp(9))),
            Write {
                key: key("gone"),
                change: Change::Delete,
            },
            set("b", r#"{"a":1,"a":"\u0000"}"#, None),
        ],
        expired: vec![key("x"), key("y")],
        advance: Some(Advanced {
            queue,
            partition: Partition(3),
            from: Position::START,
            to: Position { major: 5, minor: 6 },
            outcomes: vec![(
                Position::counted(1),
                Outcome::Succeeded(Some(Succeeded { summary, writes })),
            )],
            lost: true,
        }),
        adopt: Some(queue),
        forget: Some(JobId {
            queue,
            partition: Partition(0),
            position: Position::counted(4),
        }),
        ..Record::empty(Version(41), Timestamp(1))
    };
    for record in [Record::empty(Version(0), Timestamp(0)), full] {
        let mut line = encode(&record);
        line.push(b'}');
        assert_eq!(
            decode(&line, queue).unwrap(),
            Line::Record(record),
            "{}",
            String::from_utf8_lossy(&line)
        );
    }
}

#[test]
fn a_job_comes_back_as_it_was_also_from_what_the_pair_keeps() {
    let queue = QueueId::random();
    let key = |text| Key::new(text).unwrap();
    let set = Operation::set(
        key("é\"\\"),
        Value::parse(r#"{"a":1,"a":"\u0000"}"#).unwrap(),
    );
    let position = Position { major: 5, minor: 6 };
    let job = Job {
        id: JobId {
            queue,
            partition: Partition(0),
            position,
        },
        command: Command::Batch(vec![set, Operation::delete(key("b"))]),
        keep_outcome: true,
        accepted_at: Timestamp(7),
        traceparent: Some("00-01-02-00".into()),
    };
    let remembered = Remembered {
        key: Fingerprint::of(&[b"a"]),
        job: position,
        request: Fingerprint::of(&[b"b"]),
        guaranteed_until: Timestamp(1_000),
        expires_at: Timestamp(8),
    };
    let mut line = encode_job(&job, Some(remembered));
    line.push(b'}');
    let expected = Line::Job(Box::new(job.clone()), Some(remembered));
    assert_eq!(decode(&line, queue).unwrap(), expected);
    let kept = serde_json::to_vec(&JobText::of(&job, None)).unwrap();
    let kept: JobText<'static> = serde_json::from_slice(&kept).unwrap();
    assert_eq!(kept.into_job(queue), job);

    let mut line = encode_tried(position, 3);
    line.push(b'}');
    assert_eq!(decode(&line, queue).unwrap(), Line::Tried(position, 3));
    let opening = Record {
        jobs: Some(position),
        idem: Some(remembered),
        ..Record::opening(Version(3), Timestamp(4), Timestamp(5))
    };
    let mut line = encode(&opening);
    line.push(b'}');
    assert_eq!(decode(&line, queue).unwrap(), Line::Record(opening));
}
