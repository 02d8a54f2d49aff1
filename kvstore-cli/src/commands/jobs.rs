//! `jobs` and `queue`

use std::time::Duration;

use futures_util::stream::{self, Stream, TryStreamExt as _};
use kvstore_client::{JobInfo, JobOutcome, JobStatus};
use kvstore_core::error::Error;
use serde_json::{Value as Json, json};

use super::CommandContext;
use crate::args::{JobsArgs, Letters};
use crate::failure::CommandFailure;
use crate::output::{age, deadline, etag};

pub(super) async fn jobs(context: &CommandContext, jobs: JobsArgs) -> Result<(), CommandFailure> {
    match jobs {
        JobsArgs::List { dead } => {
            let status = match dead {
                true => JobStatus::Dead,
                false => JobStatus::Queued,
            };
            print(context, context.client.service().jobs(status)).await
        }
        JobsArgs::Get { id, wait } => {
            let job = context.client.service().job(&id, wait).await?;
            let absent = || CommandFailure::Absent(format!("no such job is known: {id}"));
            print(context, stream::iter([Ok(job.ok_or_else(absent)?)])).await
        }
        JobsArgs::Retry(letters) => retry(context, letters).await,
        JobsArgs::Forget(letters) => forget(context, letters).await,
    }
}

async fn print(
    context: &CommandContext,
    mut jobs: impl Stream<Item = Result<JobInfo, Error>> + Unpin,
) -> Result<(), CommandFailure> {
    let mut rows = context.output.rows(NAMES);
    while let Some(job) = jobs.try_next().await? {
        rows.row(cells(&job), &object(&job))?;
    }
    Ok(rows.flush()?)
}

const NAMES: &[&str] = &["ID", "OP", "KEY", "STATUS", "TRIES", "SINCE", "REASON"];

fn cells(job: &JobInfo) -> Vec<String> {
    let (status, reason) = match &job.outcome {
        JobOutcome::Queued => ("queued", ""),
        JobOutcome::Succeeded(_) => ("succeeded", ""),
        JobOutcome::Failed { reason, .. } => ("failed", reason.as_str()),
        JobOutcome::Dead { reason } => ("dead", reason.as_str()),
    };
    vec![
        job.id.to_string(),
        job.op.clone().unwrap_or_default(),
        job.key
            .as_ref()
            .map(|key| key.to_string())
            .unwrap_or_default(),
        status.to_owned(),
        job.attempts
            .map(|attempts| attempts.to_string())
            .unwrap_or_default(),
        deadline(job.dead_at.or(job.accepted_at)),
        reason.to_owned(),
    ]
}

fn object(job: &JobInfo) -> Json {
    let mut object = json!({
        "id": job.id,
        "op": job.op,
        "key": job.key,
        "attempts": job.attempts,
    });
    let mut member = |name: &str, value: Json| object[name] = value;
    match &job.outcome {
        JobOutcome::Queued => member("status", "queued".into()),
        JobOutcome::Succeeded(applied) => {
            member("status", "succeeded".into());
            if let Some(applied) = applied {
                member("etag", etag(applied.version).into());
                member("existed", applied.existed.into());
            }
        }
        JobOutcome::Failed {
            reason,
            operation,
            current,
        } => {
            member("status", "failed".into());
            member("reason", reason.as_str().into());
            member("failed_op", (*operation).into());
            member("current_etag", current.map(etag).into());
        }
        JobOutcome::Dead { reason } => {
            member("status", "dead".into());
            member("reason", reason.as_str().into());
        }
    }
    for (name, moment) in [("accepted_at", job.accepted_at), ("dead_at", job.dead_at)] {
        if let Some(moment) = moment {
            member(name, moment.to_string().into());
        }
    }
    object
}

async fn retry(context: &CommandContext, letters: Letters) -> Result<(), CommandFailure> {
    let service = context.client.service();
    if letters.all {
        return counted(
            context,
            service.retry_dead().await?,
            "queued again",
            "retried",
        );
    }
    for id in letters.ids {
        let job = service.retry(&id).await.map_err(no_letter)?;
        let object = json!({"id": id, "job_id": job, "status": "queued"});
        context
            .output
            .one(&format!("{id} queued again as job {job}"), &object)?;
    }
    Ok(())
}

async fn forget(context: &CommandContext, letters: Letters) -> Result<(), CommandFailure> {
    let service = context.client.service();
    if letters.all {
        return counted(
            context,
            service.forget_dead().await?,
            "dropped",
            "forgotten",
        );
    }
    for id in letters.ids {
        if !service.forget(&id).await? {
            return Err(CommandFailure::Absent(format!("no such dead letter: {id}")));
        }
        let object = json!({"id": id, "forgotten": true});
        context.output.one(&format!("{id} dropped"), &object)?;
    }
    Ok(())
}

/// Prints how many dead letters were processed: `done` for people, `member` for programs.
fn counted(
    context: &CommandContext,
    count: u64,
    done: &str,
    member: &str,
) -> Result<(), CommandFailure> {
    let object = json!({ member: count });
    Ok(context.output.one(&format!("{count} {done}"), &object)?)
}

fn no_letter(error: Error) -> CommandFailure {
    match error {
        Error::NotFound { what } => CommandFailure::Absent(what),
        error => error.into(),
    }
}

pub(super) async fn queue(context: &CommandContext) -> Result<(), CommandFailure> {
    let queue = context.client.service().queue_status().await?;
    let oldest = queue.oldest_age_seconds;
    let cells = vec![
        queue.jobs.to_string(),
        queue.bytes.to_string(),
        oldest
            .map(|seconds| age(Duration::from_secs_f64(seconds)))
            .unwrap_or_default(),
        queue.dead.to_string(),
        queue.partitions.to_string(),
    ];
    let object = json!({
        "jobs": queue.jobs,
        "bytes": queue.bytes,
        "oldest_age_seconds": oldest,
        "dead": queue.dead,
        "partitions": queue.partitions,
    });
    let mut rows = context
        .output
        .rows(&["JOBS", "BYTES", "OLDEST", "DEAD", "PARTITIONS"]);
    rows.row(cells, &object)?;
    Ok(rows.flush()?)
}
