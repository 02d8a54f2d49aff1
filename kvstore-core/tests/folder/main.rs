//! Does a store in a folder keep its promises: its files can be read by later versions, processes
//! that only read it see everything, and no wrong clock or lost history misleads anybody?

mod format;
mod histories;
mod reader;
