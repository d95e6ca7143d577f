//! The engine through its public face, judged by other decoders.

mod reads;
mod support;
