//! Who may call what: every method of the contract and every kind of caller, against the real services behind one listener with TLS.

mod attack;
mod calls;
mod lost;
mod records;
mod table;
mod world;
