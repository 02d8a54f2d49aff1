//! Huey, a task queue for Python, with a task that sets a key in the same Redis server: set up as
//! its documentation says, in its own environment below the build folder.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::redis_server::Server;
use crate::support::scratch_folder;

const RELEASES: [&str; 2] = ["huey==3.5.4", "redis"];

const TASKS: &str = r#"
import os, redis
from huey import RedisHuey

url = "unix://" + os.environ["BENCH_SOCKET"]
huey = RedisHuey("bench", url=url)
data = redis.Redis.from_url(url)

@huey.task()
def set_value(key, value):
    data.set(key, value)
"#;

const ENQUEUE: &str = r#"
import sys, time
from tasks import data, set_value

count, value = int(sys.argv[1]), sys.argv[2]
begun = time.monotonic()
for number in range(count):
    set_value("user:%08d" % number, value)
last = "user:%08d" % (count - 1)
while data.get(last) is None:
    time.sleep(0.02)
print(time.monotonic() - begun)
"#;

/// Its consumer, with the default of one worker, until it is dropped.
#[derive(Debug)]
pub(crate) struct Huey {
    folder: TempDir,
    socket: PathBuf,
    consumer: Child,
}

impl Huey {
    pub(crate) fn start(server: &Server) -> Self {
        let folder = scratch_folder();
        for (name, text) in [("tasks.py", TASKS), ("enqueue.py", ENQUEUE)] {
            std::fs::write(folder.path().join(name), text).expect("the folder can be written");
        }
        let socket = server.socket();
        let consumer = python("huey_consumer")
            .arg("tasks.huey")
            .current_dir(&folder)
            .env("PYTHONPATH", folder.path())
            .env("BENCH_SOCKET", &socket)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it was installed");
        Self {
            folder,
            socket,
            consumer,
        }
    }

    /// Enqueues `count` tasks, one after the other, waits until they are done, and returns the time
    /// in seconds.
    pub(crate) fn set(&self, count: usize, value: &str) -> f64 {
        let output = python("python")
            .args(["enqueue.py", &count.to_string(), value])
            .current_dir(&self.folder)
            .env("BENCH_SOCKET", &self.socket)
            .output()
            .expect("it was installed");
        let text = String::from_utf8_lossy(&output.stdout);
        text.trim()
            .parse()
            .unwrap_or_else(|_| panic!("huey: {output:?}"))
    }
}

impl Drop for Huey {
    fn drop(&mut self) {
        let _ = self.consumer.kill();
        let _ = self.consumer.wait();
    }
}

/// Returns a program of the environment, which is created if it is missing.
fn python(program: &str) -> Command {
    let environment = Path::new(env!("CARGO_TARGET_TMPDIR")).join("huey");
    let programs = environment.join("bin");
    if !programs.join("huey_consumer").exists() {
        run(Command::new("python3")
            .args(["-m", "venv"])
            .arg(&environment));
        run(Command::new(programs.join("pip"))
            .args(["install", "--quiet"])
            .args(RELEASES));
    }
    Command::new(programs.join(program))
}

fn run(command: &mut Command) {
    let ended = command.status();
    assert!(
        ended.as_ref().is_ok_and(|status| status.success()),
        "{command:?}: {ended:?} (apt-get install -y python3-venv)"
    );
}
