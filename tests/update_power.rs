//! Power cuts of a machine in the middle of its updates, on the image that users get.
//!
//! QEMU is killed at random moments, and what the machine's disk had not been told to
//! flush is lost, torn or kept at random ([`forgetful_disk`]). Whatever is left has to
//! boot a slot whose every block is the one of its hash tree, and in the end the
//! machine runs a new release and finds it good. A cut while a release boots for the
//! first time looks to the machine as a release that died there: it is given up, as
//! any such release is, and the next one is offered.
//!
//! What the disk may do with single sectors is enumerated in
//! src/update/engine/power_cut_test.rs; here the kernel, the boot, the state partition
//! and the store are cut off, too.
//!
//! `PROA_POWER_CUTS` is how many, `PROA_POWER_SEED` brings the moments of an earlier
//! run back, as far as a machine is as fast as then. `PROA_IMAGE_DIR` and `PROA_BIN` as
//! in update_machines.rs.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod etcd;
mod forgetful_disk;
mod machines;
mod omahad;
mod publisher;

use std::{
    env,
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::Path,
    thread,
    time::{Duration, Instant, SystemTime},
};

use forgetful_disk::ForgetfulDisk;
use machines::{Bench, PATIENCE, image_dir, version};
use proa_update_disk::{Disk, Slots, seal};
use proa_update_model::{
    layout::slot_letter,
    verity::{BLOCK_BYTES, TreeBuilder, tree_blocks},
};

const SECTOR: u64 = 512;
const MIB: u64 = 1 << 20;
/// The places in which writes are counted: slot A, slot B, both copies of the table.
const TABLE: [usize; 2] = [2, 3];
const SLOTS: [usize; 2] = [0, 1];
/// An update changes the table four times: it retires the slot, activates it, spends
/// its try, and finds it good. Each takes four writes.
const TABLE_WRITES: u64 = 16;
/// From power-on to a release that was found good, in multiples of the time from
/// power-on to the first question: that, the update, the second start, the proof.
const UPDATE_IN_STARTS: u32 = 4;

/// When the power is cut, counted from power-on.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// So much later.
    Time(Duration),
    /// When so much was written into the slots.
    Written(u64),
    /// So long after so many writes of the partition table.
    Table(u64, Duration),
}

struct Field {
    bench: Bench,
    disk: ForgetfulDisk,
    /// The last number of the release on offer.
    number: usize,
    done: u32,
    given_up: u32,
    random: u64,
}

impl Field {
    /// A machine that has been up once, and how long that took.
    fn new(seed: u64) -> (Self, Duration) {
        let mut bench = Bench::boot(1, |_, _| {});
        let machine = &mut bench.cluster.machines[0];
        // It was switched on with a disk that forgets nothing; its life begins anew.
        machine.power_off();
        let path = machine.disk();
        let slots = slots(&path);
        let area = |index: usize| {
            let (start, bytes) = slots.disk().extent(slots.partition(index));
            start..start + bytes
        };
        let end = fs::metadata(&path).unwrap().len();
        let watched = vec![area(0), area(1), 0..34 * SECTOR, end - 33 * SECTOR..end];
        let disk = ForgetfulDisk::serve(&path, watched);
        machine.reach_disk_at(disk.socket());
        machine.power_on().unwrap();
        let begun = Instant::now();
        bench.wait_for_table("the machine asks for updates", |seen| seen.len() == 1);
        let start = begun.elapsed();
        (Self { bench, disk, number: 0, done: 0, given_up: 0, random: seed }, start)
    }

    fn random(&mut self) -> u64 {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.random >> 33
    }

    fn moment(&mut self, start: Duration) -> Moment {
        let some_ms = |random: u64, most: Duration| Duration::from_millis(random % most.as_millis() as u64);
        match self.random() % 4 {
            0 | 1 => Moment::Time(some_ms(self.random(), start * UPDATE_IN_STARTS)),
            2 => Moment::Written(self.random() % (48 * MIB)),
            _ => Moment::Table(
                1 + self.random() % TABLE_WRITES,
                some_ms(self.random(), Duration::from_millis(40)),
            ),
        }
    }

    fn written(&self, places: [usize; 2]) -> (u64, u64) {
        let counts = places.map(|place| self.disk.written(place));
        (counts[0].0 + counts[1].0, counts[0].1 + counts[1].1)
    }

    fn version(&self) -> String {
        version(self.number)
    }

    /// Whether the machine runs the release on offer and found it good.
    fn is_done(&self) -> bool {
        let version = self.version();
        matches!(&self.bench.seen()[..], [machine] if machine.version == version && machine.status == "complete")
    }

    fn was_given_up(&self) -> bool {
        self.bench.publisher.omahactl(&["failed", "list", "--no-legend"]).contains(&self.version())
    }

    /// There is always something to update to.
    fn keep_offering(&mut self) {
        if self.number > 0 {
            match (self.is_done(), self.was_given_up()) {
                (true, _) => self.done += 1,
                (false, true) => {
                    self.bench.publisher.omahactl(&["group", "clear", "stable"]);
                    self.given_up += 1;
                }
                (false, false) => return,
            }
        }
        self.offer_next(None);
    }

    /// Makes the next release, with the difference to what runs if that is one of ours,
    /// and offers it.
    fn offer_next(&mut self, hook: Option<&str>) {
        let runs = self.bench.seen().into_iter().next().map(|machine| machine.version);
        let runs = runs.filter(|version| self.bench.dir().join(version).exists());
        self.number += 1;
        let (version, publisher) = (self.version(), &self.bench.publisher);
        publisher.make_from(&image_dir(), &version, hook, runs.as_deref());
        if hook.is_some() {
            publisher.lose_whole(&version);
        }
        publisher.offer(&version);
        let from = runs.map_or("whole".to_owned(), |runs| format!("with the difference to {runs}"));
        self.bench.note(&format!("release {version} is offered, {from}"));
    }

    /// Waits for the moment, or until it cannot come any more.
    fn wait_for(&mut self, moment: Moment, start: Duration) {
        let (begun, table, slots) = (Instant::now(), self.written(TABLE).0, self.written(SLOTS).1);
        let mut looked = Instant::now();
        while begun.elapsed() < start * UPDATE_IN_STARTS * 2 {
            match moment {
                Moment::Time(after) if begun.elapsed() >= after => return,
                Moment::Written(bytes) if self.written(SLOTS).1 > slots + bytes => return,
                Moment::Table(writes, after) if self.written(TABLE).0 >= table + writes => {
                    return thread::sleep(after);
                }
                Moment::Time(_) | Moment::Written(_) | Moment::Table(..) => {}
            }
            if looked.elapsed() > Duration::from_secs(2) {
                self.keep_offering();
                looked = Instant::now();
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Cuts the power, looks at what is left, and switches the machine on again: it
    /// must start that.
    fn cut(&mut self, number: u32, moment: Moment) {
        self.bench.cluster.machines[0].power_off();
        let mut random = self.random;
        let cut = self.disk.cut(|| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            random >> 33
        });
        self.random = random;
        let letter = self.assert_boots_whole();
        self.bench.note(&format!("cut {number}, {moment:?}: {cut:?}; slot {letter} boots"));
        let machine = &mut self.bench.cluster.machines[0];
        let before = machine.serial_text().len();
        machine.power_on().unwrap();
        let began = Instant::now();
        let console = loop {
            let console = machine.serial_text().split_off(before);
            if console.contains("slot started after") {
                break console;
            }
            assert!(began.elapsed() < PATIENCE, "cut {number}: no slot starts:\n{console}");
            thread::sleep(Duration::from_millis(50));
        };
        let started = console.split("init: slot ").nth(1).unwrap_or_default();
        assert!(started.starts_with(letter), "cut {number}: not slot {letter}:\n{console}");
        assert!(!console.contains("does not start"), "cut {number}:\n{console}");
    }

    /// The letter of the slot that boots next; all of it is as its hash tree says.
    fn assert_boots_whole(&self) -> char {
        let path = self.bench.cluster.machines[0].disk();
        let slots = slots(&path);
        let index =
            slots.boots().first().unwrap_or_else(|| panic!("no slot boots: {:?}", slots.explain())).index;
        let (start, _) = slots.disk().extent(slots.partition(index));
        let file = File::open(&path).unwrap();
        let superblock = seal::superblock(&file, start).unwrap();
        let mut tree = TreeBuilder::new(superblock.data_blocks, &superblock.salt).unwrap();
        let mut block = vec![0; BLOCK_BYTES];
        for number in 0..superblock.data_blocks {
            file.read_exact_at(&mut block, start + number * BLOCK_BYTES as u64).unwrap();
            tree.push(&block).unwrap();
        }
        let tree = tree.finish().unwrap();
        assert_eq!(tree.root_hash, superblock.root_hash, "slot {}", slot_letter(index));
        let mut there = vec![0; tree_blocks(superblock.data_blocks) as usize * BLOCK_BYTES];
        file.read_exact_at(&mut there, start + superblock.tree_offset()).unwrap();
        assert!(there == tree.levels.concat(), "the tree of slot {}", slot_letter(index));
        slot_letter(index)
    }

    /// Without further cuts the machine comes to a release and finds it good, and then
    /// to one with another kernel that it can have as a difference alone.
    fn end(&mut self) {
        self.come_up();
        self.offer_next(Some("kernel-other"));
        self.come_up();
        self.bench.cluster.machines[0].power_off();
        self.disk.cut(|| 0);
        self.assert_boots_whole();
        let path = self.bench.cluster.machines[0].disk();
        let slots = slots(&path);
        let index = slots.boots()[0].index;
        assert!(slots.flags(index).successful(), "{}", slots.flags(index));
        let wanted = fs::read(self.bench.dir().join(self.version()).join("slot")).unwrap();
        let mut there = vec![0; wanted.len()];
        let (start, _) = slots.disk().extent(slots.partition(index));
        File::open(&path).unwrap().read_exact_at(&mut there, start).unwrap();
        assert!(there == wanted, "slot {} is not {}", slot_letter(index), self.version());
    }

    fn come_up(&mut self) {
        let begun = Instant::now();
        while !self.is_done() {
            if self.was_given_up() {
                self.keep_offering();
            }
            let console = || self.bench.cluster.machines[0].serial_text();
            assert!(begun.elapsed() < PATIENCE * 2, "{} does not come up:\n{}", self.version(), console());
            thread::sleep(Duration::from_millis(500));
        }
        self.done += 1;
        self.bench.note(&format!("{} is good", self.version()));
    }
}

fn slots(path: &Path) -> Slots {
    Slots::find(Disk::open(path, SECTOR as u32).unwrap()).unwrap().unwrap()
}

#[test]
fn power_cuts_at_random_moments_of_an_update_leave_a_machine_that_boots() {
    let number = |name: &str| env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let cuts = number("PROA_POWER_CUTS").unwrap_or(2) as u32;
    let seconds = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let seed = number("PROA_POWER_SEED").unwrap_or_else(seconds);
    println!("{cuts} power cuts, PROA_POWER_SEED={seed}");
    let (mut field, start) = Field::new(seed);
    field.keep_offering();
    for number in 1..=cuts {
        let moment = field.moment(start);
        field.wait_for(moment, start);
        field.cut(number, moment);
    }
    field.end();
    println!(
        "{cuts} cuts: {} releases found good, {} given up for a cut while they booted first",
        field.done, field.given_up
    );
}
