//! Hashes of many messages that begin alike.

use super::{HASH_BYTES, Sha256, pair::Pair, running::RunningSha256};

/// What was made of the beginning, which is hashed once.
pub struct Salted {
    begun: ring::digest::Context,
    /// The same to make two hashes at a time, twice as fast; `None` where the
    /// processor cannot. There `ring` is the fastest.
    two: Option<(Pair, RunningSha256)>,
}

impl Salted {
    /// For messages that begin with `salt`.
    pub fn new(salt: &[u8]) -> Self {
        let mut begun = ring::digest::Context::new(&ring::digest::SHA256);
        begun.update(salt);
        let mut running = RunningSha256::default();
        running.update(salt);
        Self { begun, two: Pair::of_this_processor().map(|pair| (pair, running)) }
    }

    /// Appends to `hashes` that of each of `blocks`, in order.
    pub fn hash_each<const BYTES: usize>(&self, blocks: &[[u8; BYTES]], hashes: &mut Vec<u8>) {
        let (pairs, last) = blocks.as_chunks::<2>();
        for [a, b] in pairs {
            let [a, b] = self.hash_two(a, b);
            hashes.extend_from_slice(&a.0);
            hashes.extend_from_slice(&b.0);
        }
        for block in last {
            hashes.extend_from_slice(&self.hash(block).0);
        }
    }

    fn hash_two(&self, a: &[u8], b: &[u8]) -> [Sha256; 2] {
        let Some((pair, begun)) = &self.two else { return [self.hash(a), self.hash(b)] };
        let (mut of_a, mut of_b) = (begun.clone(), begun.clone());
        RunningSha256::update_two(*pair, [&mut of_a, &mut of_b], [a, b]);
        [of_a.finish(), of_b.finish()]
    }

    fn hash(&self, block: &[u8]) -> Sha256 {
        let mut context = self.begun.clone();
        context.update(block);
        let mut hash = [0; HASH_BYTES];
        hash.copy_from_slice(context.finish().as_ref());
        Sha256(hash)
    }
}

#[cfg(test)]
mod tests {
    use super::Salted;
    use crate::hash::{HASH_BYTES, Sha256};
    use proptest::prelude::*;

    proptest! {
        /// Two at a time and one at a time, whatever is left at the end.
        #[test]
        fn each_is_that_of_salt_and_block(salt in prop::collection::vec(any::<u8>(), 0..100),
                                          blocks in prop::collection::vec(any::<[u8; 100]>(), 0..6)) {
            let mut salted = Salted::new(&salt);
            for _ in 0..2 {
                let mut hashes = Vec::new();
                salted.hash_each(&blocks, &mut hashes);
                let want: Vec<_> = blocks.iter().map(|block| Sha256::of_parts(&[&salt, block]).0).collect();
                prop_assert_eq!(hashes.as_chunks::<HASH_BYTES>().0, want);
                salted.two = None;
            }
        }
    }
}
