//! Compares the tree with a model: random operations as the kernel sends them, while the source
//! changes. At the end every reference is given back.

use std::collections::BTreeSet;

use super::*;

/// The content of a file in the source.
#[derive(Debug, Clone, PartialEq)]
enum Model {
    Archive(BTreeMap<String, Vec<u8>>),
    Plain(Vec<u8>),
}

/// The references that the kernel would hold, and the facts to check them against.
struct Kernel {
    tree: Tree,
    /// Number of lookups of each inode that have not been forgotten.
    lookups: BTreeMap<Ino, u64>,
    /// Open members: the handle, the name of the archive, and the bytes that a read must return.
    handles: Vec<(HandleId, String, Vec<u8>)>,
    /// The name and the bytes of each inode when it was looked up.
    inodes: BTreeMap<Ino, (String, Vec<u8>)>,
    /// The inode number of each member since its archive was last written. Kept after a forget.
    numbers: BTreeMap<(String, String), Ino>,
    /// The archive, the member and the bytes that each inode number was ever used for.
    contents: BTreeMap<Ino, (String, String, Vec<u8>)>,
    /// Names of files that were overwritten in place, so that their old bytes are lost.
    overwritten: BTreeSet<String>,
}

impl Kernel {
    fn look_up(&mut self, parent: Ino, child: &str) -> Result<(Ino, Attr), FsError> {
        let found = self.tree.lookup(parent, name(child))?;
        *self.lookups.entry(found.0).or_default() += 1;
        Ok(found)
    }

    /// Checks that an inode number is never used again for other bytes, whatever was forgotten
    /// meanwhile, and that a member keeps its number until its archive is written again.
    fn note_number(&mut self, ino: Ino, file: &str, member: &str, bytes: &[u8]) {
        let thing = (file.to_owned(), member.to_owned(), bytes.to_owned());
        let before = self.contents.entry(ino).or_insert_with(|| thing.clone());
        assert!(*before == thing, "{ino:?} was {}/{}", before.0, before.1);
        let number = self.numbers.entry((file.to_owned(), member.to_owned())).or_insert(ino);
        assert_eq!(*number, ino, "{file}/{member} was not written since");
    }
}

const NAMES: [&str; 4] = ["a.npz", "b.npz", "c.NPZ", "d.txt"];
const MEMBERS: [&str; 3] = ["x.npy", "y.npy", "z"];

fn change(
    random: &mut Random,
    dir: &Dir,
    model: &mut BTreeMap<String, Model>,
    kernel: &mut Kernel,
) {
    let file = NAMES[random.below(NAMES.len())].to_owned();
    let stamp = random.0;
    kernel.numbers.retain(|(archive, _), _| *archive != file);
    let content = if file.to_lowercase().ends_with(".npz") && random.below(4) > 0 {
        let members: BTreeMap<String, Vec<u8>> = (0..random.below(MEMBERS.len() + 1))
            .map(|number| (MEMBERS[number].to_owned(), stamped(stamp, random.below(40_000))))
            .collect();
        Model::Archive(members)
    } else {
        Model::Plain(stamped(stamp, 1 + random.below(1000)))
    };
    let bytes = match &content {
        Model::Archive(members) => {
            let deflate = random.below(2) == 0;
            let members: Vec<_> =
                members.iter().map(|(name, bytes)| (&name[..], &bytes[..], deflate)).collect();
            testing::zip(&members)
        }
        Model::Plain(bytes) => bytes.clone(),
    };
    match random.below(4) {
        0 => {
            if model.remove(&file).is_some() {
                fs::remove_file(dir.path(&file)).unwrap();
            }
        }
        1 => {
            // Overwrites the file in place, as np.savez does.
            dir.write(&file, &bytes);
            kernel.overwritten.insert(file.clone());
            model.insert(file, content);
        }
        _ => {
            dir.replace(&file, &bytes);
            model.insert(file, content);
        }
    }
}

fn check_root(kernel: &mut Kernel, model: &BTreeMap<String, Model>) {
    let expected: BTreeMap<OsString, Kind> = model
        .iter()
        .map(|(name, model)| match model {
            Model::Archive(_) => (name.into(), Kind::Directory),
            Model::Plain(_) => (name.into(), Kind::RegularFile),
        })
        .collect();
    assert_eq!(names(&kernel.tree, Ino::ROOT), expected);
}

/// Looks up a name, opens a member of that archive, and notes the bytes that reads must return.
fn open_one(random: &mut Random, kernel: &mut Kernel, model: &BTreeMap<String, Model>) {
    let file = NAMES[random.below(NAMES.len())];
    let found = kernel.look_up(Ino::ROOT, file);
    let Some(content) = model.get(file) else {
        assert!(matches!(found, Err(FsError::NotFound)), "{file}");
        return;
    };
    let (ino, attr) = found.unwrap();
    let (ino, bytes) = match content {
        Model::Plain(bytes) => {
            assert_eq!((attr.kind, attr.size), (Kind::RegularFile, bytes.len() as u64));
            // The handle is closed at once: a plain file may change in place, so later reads cannot
            // be checked.
            let id = open(&kernel.tree, ino).id;
            assert_eq!(&read(&kernel.tree, id, 0, 1 << 20).unwrap(), bytes);
            kernel.tree.release(id);
            return;
        }
        Model::Archive(members) => {
            assert_eq!(attr.kind, Kind::Directory);
            let listed: Vec<_> = names(&kernel.tree, ino).into_keys().collect();
            assert!(listed.iter().eq(members.keys().map(OsStr::new)));
            let member = MEMBERS[random.below(MEMBERS.len())];
            let found = kernel.look_up(ino, member);
            let Some(bytes) = members.get(member) else {
                assert!(matches!(found, Err(FsError::NotFound)));
                return;
            };
            let (ino, attr) = found.unwrap();
            assert_eq!((attr.kind, attr.size), (Kind::RegularFile, bytes.len() as u64));
            kernel.note_number(ino, file, member, bytes);
            (ino, bytes)
        }
    };
    // The inode still has the bytes that it had at its first lookup.
    let known = kernel.inodes.entry(ino).or_insert_with(|| (file.to_owned(), bytes.clone()));
    assert_eq!(&known.1, bytes);
    let id = open(&kernel.tree, ino).id;
    kernel.handles.push((id, file.to_owned(), bytes.clone()));
}

fn read_one(random: &mut Random, kernel: &Kernel) {
    if kernel.handles.is_empty() {
        return;
    }
    let (id, file, bytes) = &kernel.handles[random.below(kernel.handles.len())];
    let offset = random.below(bytes.len() + 100);
    let size = random.below(200_000);
    match read(&kernel.tree, *id, offset as u64, size as u32) {
        Ok(read) => {
            let start = offset.min(bytes.len());
            assert_eq!(read, &bytes[start..bytes.len().min(start + size)]);
        }
        Err(error) if is_overwritten(&error) => {
            assert!(kernel.overwritten.contains(file), "{file} was never overwritten");
        }
        Err(error) => panic!("{file}: {error}"),
    }
}

fn forget_one(random: &mut Random, kernel: &mut Kernel) {
    if let Some((&ino, _)) = kernel.lookups.iter().nth(random.below(kernel.lookups.len().max(1))) {
        let owed = kernel.lookups.remove(&ino).unwrap();
        kernel.tree.forget(ino, owed);
        kernel.inodes.remove(&ino);
        assert!(kernel.tree.getattr(ino).is_err());
    }
}

fn readdir_from_any_cookie(random: &mut Random, kernel: &Kernel) {
    let all = listed(&kernel.tree, Ino::ROOT, 0);
    let seen = random.below(all.len());
    let rest = listed(&kernel.tree, Ino::ROOT, all[seen].1);
    assert_eq!(rest.len(), all.len() - seen - 1);
    for (one, other) in rest.iter().zip(&all[seen + 1..]) {
        assert_eq!((&one.0, one.1), (&other.0, other.1));
        // Whether the kind is known depends on which archives are open.
        if let (Some(kind), Some(before)) = (one.2, other.2) {
            assert_eq!(kind, before);
        }
    }
}

/// Lists with lookups into a small buffer. An entry for which there is no room owes no forget.
fn list_with_little_room(random: &mut Random, kernel: &mut Kernel) {
    let before = kernel.tree.references().1;
    let mut room = random.below(6);
    let mut owed = 0;
    let lookups = &mut kernel.lookups;
    let mut show = |entry: Listed<'_>| {
        if room == 0 {
            return false;
        }
        room -= 1;
        if let Some((ino, _)) = entry.looked_up {
            *lookups.entry(ino).or_default() += 1;
            owed += 1;
        }
        true
    };
    kernel.tree.read_directory(Ino::ROOT, 0, true, true, &mut show).unwrap();
    assert_eq!(kernel.tree.references().1, before + owed);
}

#[test]
fn random_operations_agree_with_a_plain_map_and_every_reference_is_given_back() {
    for seed in 1..=60_u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let dir = Dir::new();
        let mut model = BTreeMap::new();
        let mut kernel = Kernel {
            tree: dir.tree(Settings {
                serve: serve::Settings { cache_size: 1 << 20, ..Default::default() },
                open_archives: 1 + seed % 3,
                ..Settings::default()
            }),
            lookups: BTreeMap::new(),
            handles: Vec::new(),
            inodes: BTreeMap::new(),
            numbers: BTreeMap::new(),
            contents: BTreeMap::new(),
            overwritten: BTreeSet::new(),
        };
        for _ in 0..120 {
            match random.below(11) {
                0 | 1 => change(&mut random, &dir, &mut model, &mut kernel),
                2 => check_root(&mut kernel, &model),
                3..=5 => open_one(&mut random, &mut kernel, &model),
                6 | 7 => read_one(&mut random, &kernel),
                8 => list_with_little_room(&mut random, &mut kernel),
                9 => readdir_from_any_cookie(&mut random, &kernel),
                _ => forget_one(&mut random, &mut kernel),
            }
        }
        for (id, ..) in kernel.handles.drain(..) {
            kernel.tree.release(id);
        }
        for (ino, owed) in std::mem::take(&mut kernel.lookups) {
            kernel.tree.forget(ino, owed);
        }
        assert_eq!(kernel.tree.references(), (1, 0, 0), "seed {seed}");
    }
}
