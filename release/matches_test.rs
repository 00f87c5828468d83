use super::*;

/// Bytes without a pattern, the same each time.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(len);
    for _ in 0..len {
        // Knuth's MMIX generator; its upper bits are the good ones.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.push((state >> 56) as u8);
    }
    bytes
}

/// The pieces as `source+add+insert`, after checking that they make up the target
/// and stay inside the old data.
fn pieces(old: &[u8], new: &[u8], guess: usize) -> Vec<String> {
    let pieces = Old::new(old).pieces(new, guess);
    let mut at = 0;
    for piece in &pieces {
        assert!(piece.source + piece.add <= old.len(), "{piece:?} of {} bytes", old.len());
        at += piece.add + piece.insert;
    }
    assert_eq!(at, new.len(), "{pieces:?}");
    pieces.iter().map(|p| format!("{}+{}+{}", p.source, p.add, p.insert)).collect()
}

#[test]
fn pieces_say_what_moved() {
    let old = noise(1, 1000);
    let other = noise(2, 100);
    let mut touched = old.clone();
    for at in (0..1000).step_by(100) {
        touched[at + 50] ^= 0xff;
    }
    #[rustfmt::skip]
    let cases: &[(&str, Vec<u8>, usize, &[&str])] = &[
        ("the same",              old.clone(),                                   0,   &["0+1000+0"]),
        ("a byte in a hundred",   touched.clone(),                               0,   &["0+1000+0"]),
        ("nothing",               vec![],                                        0,   &[]),
        ("nothing alike",         other.clone(),                                 0,   &["0+0+100"]),
        ("a wrong guess",         old[500..].to_vec(),                           7,   &["500+500+0"]),
        ("a guess beyond",        old[500..].to_vec(),                           9999, &["500+500+0"]),
        ("something put in",      [&old[..400], &other, &old[400..]].concat(),   0,   &["0+400+100", "400+600+0"]),
        ("something taken out",   [&old[..400], &old[600..]].concat(),           0,   &["0+400+0", "600+400+0"]),
        ("halves exchanged",      [&old[500..], &old[..500]].concat(),           500, &["500+500+0", "0+500+0"]),
        ("moved and touched",     [&other[..], &touched].concat(),               0,   &["0+0+100", "0+1000+0"]),
        ("grown at the end",      [&old[..], &other].concat(),                   0,   &["0+1000+100"]),
    ];
    for (name, new, guess, want) in cases {
        assert_eq!(pieces(&old, new, *guess), *want, "{name}");
    }
}

#[test]
fn nothing_is_like_nothing() {
    assert_eq!(pieces(&[], b"abc", 0), ["0+0+3"]);
}

#[test]
fn one_byte_over_and_over_ends() {
    let old = vec![7; 3000];
    assert_eq!(pieces(&old, &vec![7; 2000], 0), ["0+2000+0"]);
    let total: usize = Old::new(&old).pieces(&vec![7; 9000], 0).iter().map(|p| p.add + p.insert).sum();
    assert_eq!(total, 9000);
}

/// Small alphabets and short data reach every way in which pieces can touch.
#[test]
fn pieces_of_anything_make_up_the_target() {
    for seed in 0..500_u64 {
        let letters = 2 + (seed % 5) as u8;
        let shrink = |bytes: Vec<u8>| bytes.into_iter().map(|b| b % letters).collect::<Vec<_>>();
        let old = shrink(noise(seed, (seed % 67) as usize));
        let mut new = shrink(noise(seed + 1_000_000, (seed % 41) as usize));
        let from = old.len() / 3;
        new.extend_from_slice(&old[from..]);
        new.extend_from_slice(&old[..from]);
        pieces(&old, &new, (seed % 11) as usize);
    }
}

#[test]
fn longest_is_the_longest() {
    let old = b"the cat sat on the mat with the catalogue";
    let index = Old::new(old);
    for wanted in [&b"the catalogue of"[..], b"the mats", b"sat on a", b"zzz", b"", b"e", b"logue"] {
        let (at, len) = index.longest(wanted);
        assert_eq!(&old[at..at + len], &wanted[..len]);
        let naive = (0..old.len()).map(|at| common(&old[at..], wanted)).max().expect("old data");
        assert_eq!(len, naive, "{}", String::from_utf8_lossy(wanted));
    }
}
