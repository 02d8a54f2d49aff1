//! What survives when the real program is killed, its disk fails or fills up, or power is lost?

mod backup;
mod counter;
mod expected;
mod faults;
mod full;
mod kill;
mod load;
mod mounted;
mod power;
mod reader;
mod run;
mod strace;
