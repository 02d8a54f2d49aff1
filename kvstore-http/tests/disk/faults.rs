//! What survives disk faults under the real program, at every write, sync and rename that it makes?
//!
//! strace fails a call (EIO once, ENOSPC for a while, a write of zero bytes, an interrupted one) or
//! kills the process instead: while the server opens a folder, while it serves many clients and
//! takes snapshots, and while it closes. Then the server starts without faults, and must have
//! everything acknowledged, once and in order, and nothing else. A disk that falsely reports a
//! write as done cannot be survived, but it is detected. A fault that did not occur fails the test.
//!
//! While the server serves, a sample of the cases runs; all of them, in about ten minutes, with
//!
//! ```text
//! KVSTORE_FAULTS=all cargo test -p kvstore-http --test disk -- --nocapture faults::
//! ```
//!
//! `KVSTORE_FAULTS_SEED` repeats the choices of an earlier run, though not its timing.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kvstore_core::json_file::Inspection;
use rand::Rng;

use crate::run::{Load, Run, assert_no_error};
use crate::strace::{Fault, Injection, count_injected};
use kvstore_testing::client::{Connection, request};
use kvstore_testing::process::Process;
use kvstore_testing::variable;

/// The calls that reach the disk. `openat` is left out: it fails before anything is done.
const CALLS: [&str; 7] = [
    "pwrite64",
    "fdatasync",
    "fsync",
    "renameat",
    "linkat",
    "unlinkat",
    "ftruncate",
];

/// Of the cases during service, one in this many runs unless all are requested.
const SAMPLE: usize = 6;

/// Longer than a fault takes to occur.
const PATIENCE: Duration = Duration::from_secs(30);

/// Returns the possible faults of `call`.
fn faults(call: &str) -> Vec<Fault> {
    let mut faults = vec![Fault::Broken, Fault::Full, Fault::Kill];
    match call {
        "pwrite64" => faults.extend([Fault::Nothing, Fault::Interrupted]),
        "fdatasync" | "fsync" => faults.push(Fault::Interrupted),
        _ => {}
    }
    faults
}

/// A folder on a failing disk, with strace's log next to it.
struct Failing {
    run: Run,
    log: PathBuf,
    _folder: tempfile::TempDir,
}

impl Failing {
    fn new(name: &str) -> Self {
        let seed: u64 = variable("KVSTORE_FAULTS_SEED").unwrap_or_else(rand::random);
        println!("{name}: KVSTORE_FAULTS_SEED={seed}");
        let folder = tempfile::tempdir().unwrap();
        // strace compares with the names that the kernel uses.
        let path = folder.path().canonicalize().unwrap();
        Self {
            run: Run::new(&path.join("database"), seed),
            log: path.join("strace.log"),
            _folder: folder,
        }
    }

    /// Checks all promises after a process that met a fault has ended.
    async fn check(&mut self) {
        self.run.check_twice().await;
        let names = self.run.names();
        assert!(
            !names.iter().any(|name| name.contains("edited")),
            "an edit was reported, but there was none: {names:?}"
        );
    }

    /// Leaves the folder in the state of a kill under load.
    async fn kill_under_load(&mut self) {
        let leave = self.run.random.random();
        self.run.leave_jobs_to_worker(leave);
        let mut process = self.run.launch().serves();
        let load = self.run.load(&process);
        load.until("forty writes are acknowledged", || {
            load.tally.acknowledged() >= 40
        })
        .await;
        process.kill();
        self.run.gather(load).await;
        assert_no_error(&process);
    }
}

#[tokio::test]
async fn server_that_meets_a_fault_while_it_opens_loses_nothing() {
    let mut failing = Failing::new("opening");
    let mut met = 0;
    for call in CALLS {
        for fault in faults(call) {
            for number in 1.. {
                failing.kill_under_load().await;
                if !open(&mut failing, call, number, fault).await {
                    break;
                }
                met += 1;
            }
        }
    }
    println!("{met} faults");
    // Two files are created, each with a write, a sync, a rename and a sync of the folder.
    let least = 2 * ["pwrite64", "fdatasync", "renameat", "fsync"]
        .map(|call| faults(call).len())
        .iter()
        .sum::<usize>();
    assert!(met >= least, "only {met} faults of {least} were met");
    failing.run.end_well().await;
}

/// Opens the folder with a fault; returns true if it occurred.
async fn open(failing: &mut Failing, call: &'static str, number: usize, fault: Fault) -> bool {
    let injection = Injection {
        call,
        number,
        fault,
        paths: Vec::new(),
    };
    println!("{call} {number}: {fault:?}");
    let _ = std::fs::remove_file(&failing.log);
    let mut process = failing.run.launch_by(&injection.wrapper(&failing.log));
    let serves = process.serves_or_ends();
    if serves {
        process.kill();
    }
    let status = process.ended();
    // strace has ended once all messages are there.
    let errors = process.errors();
    let has_come = match fault {
        Fault::Kill => !serves,
        _ => count_injected(&failing.log) > 0,
    };
    match fault {
        // Background work after the start may meet the fault as well.
        _ if serves => assert!(
            errors.is_empty() || has_come && fault != Fault::Interrupted,
            "{errors:#?}"
        ),
        Fault::Kill => assert_eq!(status.signal(), Some(9), "{errors:#?}"),
        Fault::Interrupted => panic!("it was not tried again: {errors:#?}"),
        _ => {
            assert_eq!(status.code(), Some(1), "{errors:#?}");
            let text = format!("{errors:?}");
            let folder = failing.run.folder.display().to_string();
            assert!(text.contains(&folder), "the place is not said: {text}");
        }
    }
    failing.check().await;
    has_come
}

#[tokio::test]
async fn server_that_meets_a_fault_while_it_closes_loses_nothing() {
    let mut failing = Failing::new("closing");
    let mut met = 0;
    for call in CALLS {
        for fault in faults(call) {
            for number in 1.. {
                if !close(&mut failing, call, number, fault).await {
                    break;
                }
                met += 1;
            }
        }
    }
    println!("{met} faults");
    assert!(met >= 50, "only {met} faults were met");
    failing.run.end_well().await;
}

/// Closes the folder with a fault; returns true if it occurred.
async fn close(failing: &mut Failing, call: &'static str, number: usize, fault: Fault) -> bool {
    let injection = Injection {
        call,
        number,
        fault,
        paths: Vec::new(),
    };
    println!("{call} {number}: {fault:?}");
    let mut process = failing.run.launch().serves();
    failing.run.load_until(&process, 40).await;
    let strace = injection.attach(process.id(), &failing.log);
    process.signal("TERM");
    let status = process.ended();
    drop(strace);
    let errors = process.errors();
    let has_come = match fault {
        Fault::Kill => status.signal() == Some(9),
        _ => count_injected(&failing.log) > 0,
    };
    match status.code() {
        None => assert!(has_come, "{status}"),
        // A background snapshot may fail; the final one makes up for it.
        Some(0) => assert!(has_come || errors.is_empty(), "{errors:#?}"),
        code => assert!(
            code == Some(1) && has_come && fault != Fault::Interrupted && !errors.is_empty(),
            "{status}: {errors:#?}"
        ),
    }
    failing.check().await;
    has_come
}

/// Files that one thread writes.
#[derive(Clone, Copy, Debug)]
enum Files {
    /// The journal, where jobs wait for a worker.
    Waiting,
    /// The journal, where jobs are applied on acceptance.
    Journal,
    /// `data.json` and its companion files; each snapshot has a thread of its own.
    Pair,
    /// The folder itself.
    Folder,
}

impl Files {
    fn have_jobs_that_wait(self) -> bool {
        matches!(self, Self::Waiting)
    }

    fn paths(self, run: &Run) -> Vec<PathBuf> {
        // More than one case uses.
        let first = run.last_number("journal");
        let journals = (first..first + 40).map(|number| format!("journal-{number}.jsonl"));
        let names: Vec<String> = match self {
            Self::Waiting => journals.collect(),
            Self::Journal => journals
                .flat_map(|name| [format!(".{name}.begun"), name])
                .collect(),
            Self::Pair => {
                let data = ["data.json", ".data.json.new", ".data.json.replaced"];
                let meta = ["data.meta.json", ".data.meta.json.new"];
                data.into_iter().chain(meta).map(str::to_owned).collect()
            }
            Self::Folder => return vec![run.folder.clone()],
        };
        // strace compares both the path of an open file and the name as given, relative to the
        // folder's handle.
        let paths = names
            .iter()
            .flat_map(|name| [run.folder.join(name), PathBuf::from(name)]);
        paths.collect()
    }
}

/// Each call of a thread that works in rounds, over more than one round.
const SERVING: [(Files, &str, usize); 12] = [
    (Files::Waiting, "pwrite64", 8),
    (Files::Waiting, "fdatasync", 4),
    (Files::Journal, "pwrite64", 8),
    (Files::Journal, "fdatasync", 4),
    (Files::Journal, "renameat", 3),
    (Files::Journal, "unlinkat", 1),
    (Files::Pair, "pwrite64", 2),
    (Files::Pair, "fdatasync", 2),
    (Files::Pair, "renameat", 2),
    (Files::Pair, "linkat", 1),
    (Files::Pair, "unlinkat", 2),
    // Once by the journal for a new file, and twice by each snapshot.
    (Files::Folder, "fsync", 3),
];

#[tokio::test]
async fn server_that_meets_a_fault_while_it_serves_loses_nothing() {
    let mut failing = Failing::new("serving");
    let all = variable::<String>("KVSTORE_FAULTS").is_some_and(|text| text == "all");
    let (step, first) = match all {
        true => (1, 0),
        false => (SAMPLE, failing.run.random.random_range(0..SAMPLE)),
    };
    let mut cases = Vec::new();
    for (files, call, up_to) in SERVING {
        for fault in faults(call) {
            cases.extend((1..=up_to).map(|number| (files, call, number, fault)));
        }
    }
    println!("{} cases, one in {step}", cases.len());
    for (files, call, number, fault) in cases.into_iter().skip(first).step_by(step) {
        let begun = Instant::now();
        serve(&mut failing, files, call, number, fault).await;
        println!(
            "{files:?} {call} {number}: {fault:?}, {} ms",
            begun.elapsed().as_millis()
        );
    }
    failing.run.end_well().await;
}

/// Serves under load until the fault occurs, and as long as possible after that.
async fn serve(
    failing: &mut Failing,
    files: Files,
    call: &'static str,
    number: usize,
    fault: Fault,
) {
    failing
        .run
        .leave_jobs_to_worker(files.have_jobs_that_wait());
    let mut process = failing.run.launch().serves();
    let injection = Injection {
        call,
        number,
        fault,
        paths: files.paths(&failing.run),
    };
    let strace = injection.attach(process.id(), &failing.log);
    let load = failing.run.load(&process);
    if fault == Fault::Kill {
        load.until("the end of the process", || load.has_ended())
            .await;
        assert_eq!(process.ended().signal(), Some(9));
    } else {
        wait_for_fault(&failing.log).await;
        let answered = load.tally.answered();
        load.until("answers after the fault", || {
            load.has_ended() || load.tally.answered() >= answered + 50
        })
        .await;
        let is_sound = is_ready(&process).await;
        assert_answers(files, &injection, &load, is_sound);
        if is_sound {
            let acknowledged = load.tally.acknowledged();
            load.until("writes after the fault", || {
                load.tally.acknowledged() >= acknowledged + 50
            })
            .await;
        }
        // Each snapshot has a new thread, so its fault recurs until strace detaches.
        strace.detach();
        if is_sound {
            let journal = failing.run.last_number("journal");
            load.until("a snapshot after the fault", || {
                failing.run.first_number("journal") > journal
            })
            .await;
        }
        if failing.run.random.random() {
            process.signal("TERM");
            load.until("the end of all connections", || load.has_ended())
                .await;
            let code = if is_sound { 0 } else { 1 };
            assert_eq!(
                process.ended().code(),
                Some(code),
                "{:#?}",
                process.errors()
            );
        } else {
            process.kill();
        }
    }
    failing.run.gather(load).await;
    failing.check().await;
}

#[tokio::test]
async fn write_that_the_disk_lied_about_is_found_out() {
    let places = [(Files::Waiting, 4), (Files::Journal, 4), (Files::Pair, 2)];
    for (files, up_to) in places {
        let mut found = 0;
        for number in 1..=up_to {
            found += usize::from(lie(files, number).await);
        }
        println!("{files:?}: {found} of {up_to} lies mattered");
        assert!(found > 0, "{files:?}");
    }
}

/// Serves while one write is silently lost; returns true if the next start refuses the folder.
/// Otherwise, the write had no effect.
async fn lie(files: Files, number: usize) -> bool {
    let mut failing = Failing::new("a lie");
    if !matches!(files, Files::Pair) {
        // After a snapshot, the content of the journal no longer matters.
        failing.run.take_few_snapshots();
    }
    failing
        .run
        .leave_jobs_to_worker(files.have_jobs_that_wait());
    let mut process = failing.run.launch().serves();
    let injection = Injection {
        call: "pwrite64",
        number,
        fault: Fault::Lie,
        paths: files.paths(&failing.run),
    };
    let strace = injection.attach(process.id(), &failing.log);
    let load = failing.run.load(&process);
    wait_for_fault(&failing.log).await;
    let answered = load.tally.answered();
    let journal = failing.run.last_number("journal");
    load.until("writes that rest on the lie", || match files {
        Files::Pair => failing.run.first_number("journal") >= journal,
        _ => load.tally.answered() >= answered + 50,
    })
    .await;
    process.kill();
    drop(strace);
    failing.run.gather(load).await;

    let mut process = failing.run.launch();
    if process.serves_or_ends() {
        process.kill();
        assert_no_error(&process);
        failing.check().await;
        return false;
    }
    assert_eq!(process.ended().code(), Some(1));
    let errors = format!("{:?}", process.errors());
    let folder = failing.run.folder.display().to_string();
    assert!(errors.contains(&folder), "the place is not said: {errors}");
    let found = Inspection::of(Path::new(&folder));
    assert!(found.is_err() || !found.unwrap().problems().is_empty());
    true
}

async fn wait_for_fault(log: &Path) {
    let begun = Instant::now();
    while count_injected(log) == 0 {
        assert!(begun.elapsed() < PATIENCE, "the fault does not come");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Returns true if the server reports itself ready.
async fn is_ready(process: &Process) -> bool {
    let mut connection = Connection::open(process.address).await;
    let reply = connection.ask(&request("GET", "/readyz")).await;
    assert!(matches!(reply.status, 200 | 503), "{reply:?}");
    reply.status == 200
}

/// Checks the answers: a failed sync is final, a full disk is reported, and a failed snapshot goes
/// unnoticed by clients.
fn assert_answers(files: Files, injection: &Injection, load: &Load, is_sound: bool) {
    let tally = &load.tally;
    match (files, injection.call, injection.fault) {
        (_, _, Fault::Interrupted) | (Files::Pair, ..) => {
            assert!(is_sound && tally.failed() == 0, "{tally:?}");
        }
        (Files::Waiting | Files::Journal, "pwrite64", Fault::Full) => {
            // A worker retries while the disk is full, so no client notices.
            assert!(is_sound, "{tally:?}");
            assert_eq!(tally.failed(), tally.full(), "{tally:?}");
        }
        // In the other case, the sync may be that of a new journal, without which the old one
        // remains in use.
        (Files::Waiting, "fdatasync", Fault::Broken) => assert!(!is_sound, "{tally:?}"),
        _ => {}
    }
}
