//! Updates of one machine, on the image that users get: it takes a release and keeps it,
//! takes a bad one and gives it back, and does not take that one again.
//!
//! `PROA_IMAGE_DIR` names the folder of the image (build), `PROA_BIN` the binary whose
//! commands serve and ask, `PROA_BAD_RELEASES` the bad releases to try, by the names
//! of tests/releases (init-crash; `all` for every one).

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod etcd;
mod machines;
mod omahad;
mod publisher;

use machines::{Bench, Seen, bad_releases, image_dir, version};

/// Whether the only machine of the table is so.
fn is(seen: &[Seen], version: &str, status: &str) -> bool {
    matches!(seen, [machine] if machine.version == version && machine.status == status)
}

#[test]
fn a_good_release_stays_and_a_bad_one_is_given_back_once() {
    let bench = Bench::boot(1, |_, _| {});
    let image = image_dir();
    bench.wait_for_table("the machine asks for updates", |seen| seen.len() == 1);
    let good = version(1);
    bench.publisher.publish(&image, &good, Some("kernel-other"));
    bench.note(&format!("release {good} is published, with another kernel"));
    bench.wait_for_table("it runs that and finds it good", |seen| is(seen, &good, "complete"));
    assert_eq!(bench.starts(0, 'A'), 1);

    for (number, name) in bad_releases("init-crash").into_iter().enumerate() {
        let version = version(number + 2);
        let before = bench.all_starts()[0];
        bench.publisher.publish(&image, &version, Some(name));
        bench.note(&format!("release {version} is published: {name}"));
        let failed = || bench.publisher.omahactl(&["failed", "list", "--no-legend"]);
        bench.wait_for_table(&format!("it is back on {good} and says why"), |_| failed().contains(&version));
        bench.note(failed().lines().find(|line| line.contains(&version)).unwrap());
        let halted = bench.publisher.omahactl(&["group", "list", "--no-legend"]);
        assert!(halted.contains("halted"), "{halted}");
        // The server offers it to nobody, and the machine would not take it.
        let after = bench.all_starts()[0];
        let starts = (after.0 - before.0, after.1 - before.1);
        assert_eq!(starts.1, 1, "back within two starts");
        assert!(starts.0 <= 1, "the bad release was started {} times", starts.0);
        bench.publisher.omahactl(&["group", "clear", "stable"]);
    }
}
