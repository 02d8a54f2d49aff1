//! Stands for the backend where the feature `redis` is off: a URL of Redis is refused, and what would come of one can't be had.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "nothing of it is ever reached, and what the backend would make public is not"
)]

#[path = "options.rs"]
mod options;

use std::sync::Arc;

pub(crate) use options::{ClientCertificate, Options};

use crate::error::{Error, Result};
use crate::model::id::QueueId;
use crate::queue::JobQueue;
use crate::store::Store;

fn absent<T>() -> Result<T> {
    Err(Error::Config(
        "this program was built without Redis: build it with the feature redis of kvstore-core"
            .to_owned(),
    ))
}

pub(crate) fn check_url(_: &str) -> Result<()> {
    absent()
}

#[derive(Debug)]
pub(crate) enum Redis {}

impl Redis {
    pub(crate) async fn open(_: &str, _: Options) -> Result<Self> {
        absent()
    }

    pub(crate) fn store(&self) -> Arc<dyn Store> {
        match *self {}
    }

    pub(crate) fn queue(&self) -> Arc<dyn JobQueue> {
        match *self {}
    }
}

#[derive(Debug)]
pub(crate) enum QueueAlone {}

impl QueueAlone {
    pub(crate) async fn open(_: &str, _: &Options) -> Result<Self> {
        absent()
    }

    pub(crate) fn queue(&self) -> &dyn JobQueue {
        match *self {}
    }

    pub(crate) async fn bind(&self, _: QueueId) -> Result<()> {
        match *self {}
    }

    pub(crate) fn close(&self) {
        match *self {}
    }
}
