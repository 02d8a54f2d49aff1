//! Replaces the backend where the feature `redis` is off: a Redis URL is refused, and the types
//! that would come of one have no values.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "nothing of it is ever reached, and what the backend would make public is not"
)]

#[path = "options.rs"]
mod options;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

pub(crate) use options::{ClientCertificate, Options};

use crate::error::{Error, Result};
use crate::model::id::QueueId;
use crate::queue::WorkQueue;
use crate::store::Store;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {}

impl Address {
    pub(crate) fn is_tls(&self) -> bool {
        match *self {}
    }
}

impl fmt::Display for Address {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(_: &str) -> Result<Self> {
        Err(Error::Config(
            "this program was built without Redis: build it with the feature redis of kvstore-core"
                .to_owned(),
        ))
    }
}

#[derive(Debug)]
pub(crate) enum Redis {}

impl Redis {
    pub(crate) async fn open_at(address: &Address, _: Options, _: bool) -> Result<Self> {
        match *address {}
    }

    pub(crate) async fn bind(&self, _: Option<QueueId>) -> Result<()> {
        match *self {}
    }

    pub(crate) fn store(&self) -> Arc<dyn Store> {
        match *self {}
    }

    pub(crate) fn queue(&self) -> Arc<dyn WorkQueue> {
        match *self {}
    }
}
