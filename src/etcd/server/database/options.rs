//! How RocksDB is set up for a small machine and for these keys.

use rocksdb::{BlockBasedOptions, Cache, DBCompressionType, LogLevel, Options, SliceTransform};

/// What the database may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseOptions {
    /// Bytes gathered in memory before they become a file. Usually two such
    /// buffers exist, one being filled and one being written out; while the
    /// disk is slow up to four, so that writing need not wait for it.
    pub write_buffer_bytes: usize,
    /// Bytes of blocks, indexes and filters kept in memory.
    pub block_cache_bytes: usize,
    /// Bytes of newest versions of keys kept in memory; a read or write of one of them
    /// need not ask RocksDB.
    pub newest_bytes: usize,
    /// File descriptors that RocksDB keeps open, at least 16.
    pub max_open_files: u16,
}

/// Most bytes a second that flushing and merging write. The limit moves with the work
/// there is, down to a twentieth of this: some 50 MiB/s, which must be above what
/// clients write, for they wait when a flush cannot keep up.
const MERGE_BYTES_PER_S: i64 = 1 << 30;
/// The limit is dealt out in parts of this many microseconds, so that the log's fsync
/// waits behind a small one, and moves after a hundred of them.
const MERGE_PART_US: i64 = 10_000;
/// A file with [`DELETIONS`] among some [`DELETIONS_OF`] entries in a row is worth
/// merging: one scrub step leaves as many.
const DELETIONS_OF: usize = 1_024;
const DELETIONS: usize = 512;

impl Default for DatabaseOptions {
    /// 2 × 8 MiB of buffers, seldom 4, 10 MiB of blocks and 6 of newest versions: 32 to
    /// 48 MiB of a machine that has 256 for everything.
    fn default() -> Self {
        Self {
            write_buffer_bytes: 8 << 20,
            block_cache_bytes: 10 << 20,
            newest_bytes: 6 << 20,
            max_open_files: 256,
        }
    }
}

impl DatabaseOptions {
    pub(super) fn build(&self) -> Options {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_paranoid_checks(true);
        options.set_compression_type(DBCompressionType::None);

        options.set_write_buffer_size(self.write_buffer_bytes);
        options.set_max_write_buffer_number(4);
        options.set_target_file_size_base(16 << 20);
        options.set_level_compaction_dynamic_level_bytes(true);
        options.set_max_background_jobs(2);
        options.set_bytes_per_sync(1 << 20);
        options.set_max_open_files(i32::from(self.max_open_files.max(16)));
        // Merging must not take the disk from the log: its fsync would wait. Flushes
        // go first.
        options.set_auto_tuned_ratelimiter(MERGE_BYTES_PER_S, MERGE_PART_US, 10);
        // Deleted data is at the bottom and its deletions are above: files that
        // are mostly deletions are merged downwards without waiting for more.
        options.add_compact_on_deletion_collector_factory(DELETIONS_OF, DELETIONS, 0.5);
        // Whoever lets go of a file last does not remove it: that takes some 6 ms of 16 MiB.
        options.set_avoid_unnecessary_blocking_io(true);
        // There is one writer; what makes several cheaper makes one dearer.
        options.set_allow_concurrent_memtable_write(false);

        // RocksDB's own diary: the last few hundred KiB of warnings.
        options.set_log_level(LogLevel::Warn);
        options.set_max_log_file_size(256 << 10);
        options.set_keep_log_file_num(2);
        options.set_stats_dump_period_sec(0);
        // Reading every file's statistics would slow the start down.
        options.set_skip_stats_update_on_db_open(true);

        let mut blocks = BlockBasedOptions::default();
        blocks.set_block_cache(&Cache::new_lru_cache(self.block_cache_bytes));
        blocks.set_block_size(8 << 10);
        blocks.set_cache_index_and_filter_blocks(true);
        blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
        // 10 bits a key: 1 % of needless reads.
        blocks.set_bloom_filter(10.0, false);
        blocks.set_whole_key_filtering(true);
        options.set_block_based_table_factory(&blocks);
        let versions = SliceTransform::create("proa.versions", of_one_key, Some(is_version));
        options.set_prefix_extractor(versions);
        options
    }
}

/// What all versions of a user key share: tag `K`, the escaped key and its end
/// mark 00 01. `None` for other keys.
///
/// Inside the escaped key a 00 is followed by FF, so the first 00 01 is the
/// end. The rest may be of any length: the place to seek to is no whole key.
/// Example: `K a 00 01 F7` and `K a 00 01` both give `K a 00 01`.
pub(super) fn versions_prefix(key: &[u8]) -> Option<&[u8]> {
    if key.first() != Some(&b'K') {
        return None;
    }
    let end = key.windows(2).position(|pair| pair == [0, 1])?;
    Some(&key[..end + 2])
}

/// Whether all keys in `from..end` are versions of one user key, so that a
/// file whose filter does not know that key can be skipped.
pub(super) fn is_one_key(from: &[u8], end: &[u8]) -> bool {
    let Some(prefix) = versions_prefix(from) else { return false };
    // 00 02 is the first place after all that starts with 00 01.
    end.starts_with(prefix)
        || (end.len() == prefix.len() && end.ends_with(&[0, 2]) && {
            let shared = prefix.len() - 1;
            end[..shared] == prefix[..shared]
        })
}

fn of_one_key(key: &[u8]) -> &[u8] {
    versions_prefix(key).unwrap_or(key)
}

fn is_version(key: &[u8]) -> bool {
    versions_prefix(key).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_of_one_key_only_when_no_other_key_can_be_in_it() {
        #[rustfmt::skip]
        let cases: [(&str, &[u8], &[u8], bool); 8] = [
            ("all versions",            b"Ka\0\x01",            b"Ka\0\x02",            true),
            ("from a revision",         b"Ka\0\x01\xF7\xFF",    b"Ka\0\x02",            true),
            ("between revisions",       b"Ka\0\x01\xF7",        b"Ka\0\x01\xF8",        true),
            ("a key with a nul",        b"Ka\0\xFFb\0\x01",     b"Ka\0\xFFb\0\x02",     true),
            ("up to another key",       b"Ka\0\x01",            b"Kb\0\x01",            false),
            ("into a longer key",       b"Ka\0\x01",            b"Ka\0\xFF\0\x02",      false),
            ("not yet a key",           b"Ka",                  b"Ka\0\x02",            false),
            ("another tag",             b"Ra\0\x01",            b"Ra\0\x02",            false),
        ];
        for (name, from, end, want) in cases {
            assert_eq!(is_one_key(from, end), want, "{name}");
        }
    }
}
