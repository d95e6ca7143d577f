//! Any bytes as a `.npy.gz`: refused, or one whose size is known.

#![no_main]

use std::{fs::File, io::Write, sync::Arc};

use libfuzzer_sys::fuzz_target;
use npzfs::archive::{Generation, MemberId, NPY_GZ, SourceFile};
use rustix::fs::MemfdFlags;

fuzz_target!(|input: &[u8]| {
    let file = rustix::fs::memfd_create("npy.gz", MemfdFlags::CLOEXEC).expect("memfd");
    let mut file = File::from(file);
    file.write_all(input).expect("memory takes all");
    let generation = Generation::of(&file).expect("it is open");
    let Ok((source, tail)) = SourceFile::with_tail(file, generation) else { return };
    match NPY_GZ.parse(Arc::new(source), tail, &mut |_| Ok(())) {
        Ok(npy) => {
            assert_eq!(npy.counts(), (0, 1));
            assert!(npy.member(MemberId::ONLY).size <= input.len() as u64 * 1032);
            npy.identity().expect("the file is still there");
        }
        Err(error) => assert!(error.to_string().len() < 1000),
    }
});
