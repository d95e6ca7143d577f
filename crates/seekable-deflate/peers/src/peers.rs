//! Decoders that others wrote.

use std::{
    cell::RefCell,
    io::{self, Write},
    num::NonZeroU64,
    rc::Rc,
};

use rapidgzip_core::{Decoder, DeflateIndex, Format, IndexOptions};

use crate::cases::{Case, Stream, Take};

/// Decoders with one thread that can neither stop nor resume. Each decodes the whole stream in one
/// call, into a buffer that all of them share.
pub fn sequential<'a>(stream: &Stream<'a>) -> Vec<Case<'a>> {
    type Decode = fn(&[u8], &mut [u8]);
    let out = Rc::new(RefCell::new(vec![1; stream.plain.len()]));
    let decoders: [(&str, Decode); 3] =
        [("libdeflate", libdeflate), ("zlib-rs", zlib_rs), ("miniz_oxide", miniz_oxide)];
    let cases = decoders.map(|(name, decode)| {
        let out = Rc::clone(&out);
        let encoded = &stream.encoded[..];
        let decode = move |take: Take| {
            let mut out = out.borrow_mut();
            decode(encoded, &mut out);
            take(0, &out);
        };
        Case::new(name, 1, decode)
    });
    cases.into()
}

fn libdeflate(encoded: &[u8], out: &mut [u8]) {
    let mut decoder = libdeflater::Decompressor::new();
    let len = decoder.deflate_decompress(encoded, out).expect("the stream is good");
    assert_eq!(len, out.len());
}

fn zlib_rs(encoded: &[u8], out: &mut [u8]) {
    let mut decoder = flate2::Decompress::new(false);
    let finish = flate2::FlushDecompress::Finish;
    let status = decoder.decompress(encoded, out, finish).expect("the stream is good");
    assert_eq!(status, flate2::Status::StreamEnd);
}

fn miniz_oxide(encoded: &[u8], out: &mut [u8]) {
    let len = miniz_oxide::inflate::decompress_slice_iter_to_slice(
        out,
        std::iter::once(encoded),
        false,
        true,
    );
    assert_eq!(len.expect("the stream is good"), out.len());
}

/// rapidgzip-core, in three cases: without an index, while it makes an index, and with that index.
/// It hands its buffers to a writer that drops them.
pub fn parallel<'a>(stream: &Stream<'a>, threads: &[usize]) -> Vec<Case<'a>> {
    let stream = *stream;
    let encoded = &stream.encoded[..];
    // The index that was made last.
    let index = Rc::new(RefCell::new(None));
    let mut cases = Vec::new();
    for &threads in threads {
        let decoder = decoder(threads);
        let own = decoder.clone();
        let decode = move |take: Take| {
            own.decode(encoded, &mut Taker { take, at: 0 }).expect("the stream is good");
        };
        cases.push(Case::new("rapidgzip-core", threads, decode));

        let (own, made) = (decoder.clone(), Rc::clone(&index));
        let decode = move |take: Take| {
            made.replace(Some(decode_with_index(&own, &stream, take)));
        };
        let name = "rapidgzip-core, making an index";
        cases.push(Case::new(name, threads, decode));

        let index = Rc::clone(&index);
        let decode = move |take: Take| {
            let index = index.borrow();
            let index = index.as_ref().expect("the case before has made it");
            let mut taker = Taker { take, at: 0 };
            decoder.decode_from_index(encoded, &mut taker, index).expect("the stream is good");
        };
        let name = "rapidgzip-core, with an index";
        cases.push(Case::new(name, threads, decode));
    }
    cases
}

/// An index of rapidgzip-core, made by one thread.
pub fn index(stream: &Stream) -> DeflateIndex {
    decode_with_index(&decoder(1), stream, &|_, _| ())
}

/// Length in bytes of an index in rapidgzip-core's own format.
pub fn native_len(index: &DeflateIndex) -> u64 {
    let mut bytes = Vec::new();
    index.write_native(&mut bytes).expect("a vector takes all");
    bytes.len() as u64
}

fn decoder(threads: usize) -> Decoder {
    let builder = Decoder::builder().format(Format::RawDeflate).decoder_threads(threads);
    builder.build().expect("one thread at least")
}

/// Its checkpoints are as far apart as ours (its default is 4 MiB), so that the two indexes can be
/// compared.
fn decode_with_index(decoder: &Decoder, stream: &Stream, take: Take) -> DeflateIndex {
    let checkpoint_spacing = NonZeroU64::new(stream.spacing()).expect("it is not 0");
    let options = IndexOptions { checkpoint_spacing, ..IndexOptions::default() };
    let mut taker = Taker { take, at: 0 };
    let indexed = decoder.decode_with_index(&stream.encoded[..], &mut taker, options);
    indexed.expect("the stream is good").index
}

struct Taker<'a> {
    take: Take<'a>,
    at: u64,
}

impl Write for Taker<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (self.take)(self.at, bytes);
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
