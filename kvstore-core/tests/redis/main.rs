//! Does a store on Redis keep its promises, whatever happens to the server, the way to it, its data
//! and its settings?

mod address;
mod comes_back;
mod failover;
mod password;
mod replicas;
mod resend;
mod rights;
mod store;
mod tls;
mod upkeep;
