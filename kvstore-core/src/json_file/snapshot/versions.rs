//! The encoding of versions in `data.meta.json`: the smallest first, then the difference of each
//! from it. Versions are times in microseconds, so this halves their length.

use serde::{Deserialize, Deserializer, Serializer};

use crate::model::entry::Version;

pub(super) fn serialize<S: Serializer>(
    versions: &[Version],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let base = versions.iter().map(|version| version.0).min();
    let above = |version: &Version| version.0 - base.unwrap_or_default();
    serializer.collect_seq(base.into_iter().chain(versions.iter().map(above)))
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<Version>, D::Error> {
    let mut numbers = Vec::<u64>::deserialize(deserializer)?.into_iter();
    let base = numbers.next().unwrap_or_default();
    let version = |above| {
        let version = u64::checked_add(base, above).map(Version);
        version.ok_or_else(|| serde::de::Error::custom("a version is too large"))
    };
    numbers.map(version).collect()
}
