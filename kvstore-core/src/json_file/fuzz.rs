//! The bodies of [`crate::fuzz`] that need to see the format.

use crate::error::Error;
use crate::in_memory::state::{Row, Table};
use crate::json_file::disk::Disk;
use crate::json_file::disk::simulated::SimulatedDisk;
use crate::json_file::journal::record::{self, Line};
use crate::json_file::journal::{Journal, contents};
use crate::json_file::snapshot::data::FileFingerprint;
use crate::json_file::snapshot::import::{Known, import};
use crate::json_file::snapshot::meta::{Meta, known_entries};
use crate::json_file::snapshot::pair::{Pair, load};
use crate::json_file::snapshot::{DATA, META, write};
use crate::model::entry::{Timestamp, Version};
use crate::model::id::QueueId;

/// Checks the journal reader: on the bytes as a file, on their lines sealed as they are written,
/// and on those with the end cut off or a bit flipped.
pub fn journal(bytes: &[u8]) {
    let found = contents::read(bytes.to_vec(), None);
    assert!(found.durable.length <= bytes.len() as u64);

    // No written line begins like a mark, and none is empty.
    let bodies: Vec<Vec<u8>> = bytes
        .split(|&byte| byte == b'\n')
        .map(|line| line.strip_suffix(b"}").unwrap_or(line))
        .filter(|line| !line.is_empty() && !line.starts_with(b"{\"durable\":"))
        .map(<[u8]>::to_vec)
        .collect();
    let Some((header, lines)) = bodies.split_first() else {
        return;
    };
    let disk = SimulatedDisk::new();
    let name = "fuzzed.jsonl";
    let mut written = Journal::create(&disk, name, std::slice::from_ref(header), 0)
        .expect("the simulated disk has no faults");
    for group in lines.chunks(2) {
        written
            .append(group, 0)
            .expect("the simulated disk has no faults");
    }
    let end = written.durable();
    let text = disk
        .read(name)
        .expect("the simulated disk has no faults")
        .expect("the journal was created");

    // Every written line is read back, and each that makes sense encodes to the same line.
    for end in [None, Some(end)] {
        let whole = contents::read(text.clone(), end);
        assert_eq!(whole.damage(), None);
        assert!(
            whole
                .lines()
                .map(|line| line.body())
                .eq(bodies.iter().cloned())
        );
        assert_eq!(whole.durable, end.unwrap_or(whole.durable));
        for line in whole.lines() {
            let queue = QueueId::random();
            if let Ok(line) = record::decode(line.text, queue) {
                let mut again = encode(&line);
                again.push(b'}');
                assert_eq!(record::decode(&again, queue).ok(), Some(line));
            }
        }
    }

    // The bytes determine where the text is cut, and which bit is flipped.
    let place = crc32c::crc32c(bytes) as usize % (end.length as usize);
    let cut = contents::read(text[..place].to_vec(), None);
    assert!(
        cut.lines()
            .zip(&bodies)
            .all(|(line, body)| line.body() == *body)
    );
    assert!(
        cut.damage()
            .is_none_or(|damage| damage.is_torn || damage.line == 1),
        "a cut at {place}"
    );
    let mut flipped = text;
    flipped[place] ^= 1 << (bytes.len() % 8);
    let found = contents::read(flipped, None);
    assert!(
        found
            .lines()
            .zip(&bodies)
            .all(|(line, body)| line.body() == *body)
    );
    let damage = found.damage().expect("a flipped bit is found");
    assert!(!damage.is_torn, "byte {place} of {end:?}");
}

fn encode(line: &Line) -> Vec<u8> {
    match line {
        Line::Record(record) => record::encode(record),
        Line::Job(job, remembered) => record::encode_job(job, *remembered),
        Line::Tried(head, count) => record::encode_tried(*head, *count),
    }
}

/// Checks the snapshot reader: on the bytes as `data.meta.json`, as the `data.json` that it belongs
/// to, and as a file to import. Returns the number of imported entries, if the import succeeded.
pub fn snapshot(bytes: &[u8]) -> Option<usize> {
    let disk = SimulatedDisk::new();
    disk.put(DATA, bytes);
    disk.put(META, bytes);
    // Only a matching checksum would make it valid, and that does not happen by chance.
    let refused = load(&disk, false);
    assert!(matches!(refused, Err(Error::Corrupt { .. })), "{refused:?}");

    let mut version = Version(0);
    let disk = SimulatedDisk::new();
    let entries = match import(&disk, bytes, &Known::new(), &mut version) {
        Ok(entries) => entries,
        Err(Error::Corrupt { line, .. }) => {
            let lines = bytes.split(|&byte| byte == b'\n').count() as u64;
            assert!(line.is_some_and(|line| (1..=lines).contains(&line)));
            return None;
        }
        Err(error) => panic!("{error:?}"),
    };
    type Members = std::collections::BTreeMap<String, serde_json::Value>;
    // A parser that does not keep the digits refuses 1e400.
    if let Ok(members) = serde_json::from_slice::<Members>(bytes) {
        assert!(members.keys().eq(entries.keys().map(|key| key.as_str())));
        for (member, entry) in members.values().zip(entries.values()) {
            assert_eq!(
                entry.value.to::<serde_json::Value>().ok().as_ref(),
                Some(member)
            );
        }
    }
    let count = entries.len();
    assert_eq!(version, Version(count as u64));

    // A written pair is read back as it was.
    let mut table = Table::of(entries.clone());
    table.start_cut();
    let mut meta = Meta::of_new_folder(QueueId::random());
    meta.version = version;
    let deadline = |row: Row| {
        let key = row.key_str();
        let expires_at = key.len().is_multiple_of(2).then_some(Timestamp(9));
        Row::new(
            &mut Vec::new(),
            0,
            key,
            row.value_bytes(),
            row.version(),
            expires_at,
        )
    };
    write(&disk, &meta, None, || {
        table.next_of_cut(3).into_iter().map(deadline).collect()
    })
    .expect("the simulated disk has no faults");
    let Ok(Pair::Whole(mut meta, mut read)) = load(&disk, false) else {
        panic!("what was written is not whole");
    };
    read.start_cut();
    let rows = read.next_of_cut(usize::MAX);
    assert_eq!(rows.len(), count);
    for (row, (key, entry)) in rows.iter().zip(&entries) {
        assert_eq!(
            (row.key_str(), row.value()),
            (key.as_str(), entry.value.clone())
        );
        assert_eq!(row.version(), entry.version);
        assert_eq!(
            row.expires_at().is_some(),
            key.as_str().len().is_multiple_of(2)
        );
    }

    // If an edit changed nothing, each entry keeps its version and deadline.
    let text = disk
        .read(META)
        .expect("the simulated disk has no faults")
        .expect("the file was written");
    let known = known_entries(&disk, &text).expect("the file was written");
    let edited =
        import(&disk, bytes, &known, &mut version).expect("the same text was imported before");
    assert_eq!(version, Version(count as u64), "a version was given out");
    for (row, (key, entry)) in rows.iter().zip(&edited) {
        assert_eq!((row.key_str(), row.entry()), (key.as_str(), entry.clone()));
    }

    // Changed bytes are recognised as such.
    if let [first, ..] = bytes {
        let mut flipped = disk
            .read(DATA)
            .expect("the simulated disk has no faults")
            .expect("the file was written");
        let place = usize::from(*first) % flipped.len();
        flipped[place] ^= 1 << (bytes.len() % 8);
        disk.put(DATA, &flipped);
        assert!(matches!(load(&disk, false), Ok(Pair::Edited { .. })));
        // Even with a matching checksum they are read without a panic.
        meta.data = FileFingerprint::of(&flipped);
        let _ = meta.table(&disk, DATA);
    }
    Some(count)
}
