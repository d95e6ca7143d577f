//! Tests the engine through its public interface, and compares it with other decoders.

mod bits;
mod budget;
mod corpus;
mod damage;
mod gzip;
mod oddities;
mod parts;
mod reads;
mod saved;
mod saved_damage;
mod sources;
mod stale;
mod support;
mod threads;
mod verdicts;
