//! Does a record come back from its line as it was?

use crate::in_memory::state::{Advanced, Record};
use crate::json_file::journal::record::*;
use crate::model::entry::{Timestamp, Version};
use crate::model::id::{JobId, Partition, Position, QueueId};
use crate::model::job::{Applied, Computed, Outcome, Succeeded, Summary};
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
            decode(&line).unwrap(),
            record,
            "{}",
            String::from_utf8_lossy(&line)
        );
    }
}
