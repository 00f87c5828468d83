//! Unit files and `[X-Fleet]`: what is read, what is refused, and that nothing
//! is lost on the way.

use proa_fleet_model::requirements::Requirements;
use proa_fleet_model::unit_file::{MAX_UNIT_FILE_BYTES, UnitFile, UnitOption};
use proptest::prelude::*;

use crate::store::name;

fn options(file: &UnitFile) -> Vec<(&str, &str, &str)> {
    let options = file.options().iter();
    options.map(|o| (o.section.as_str(), o.name.as_str(), o.value.as_str())).collect()
}

/// Name of the case, text, options.
type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str, &'a str)]);

#[test]
fn files_are_read_as_systemd_reads_them() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("repeats and order", "[Unit]\nAfter=b\nAfter=a\n[Service]\nX=\n[Unit]\nAfter=\n",
            &[("Unit", "After", "b"), ("Unit", "After", "a"), ("Service", "X", ""), ("Unit", "After", "")]),
        ("comments",          "# a\n; b\n[Unit]\n#Description=Foo\nDescription=Bar\n",   &[("Unit", "Description", "Bar")]),
        ("continuation",      "[S]\nX= wrapped \\\n    words \nY=1",                     &[("S", "X", "wrapped      words"), ("S", "Y", "1")]),
        ("comment inside",    "[S]\nX=a\\\n# no\n; no\nb\n",                             &[("S", "X", "a b")]),
        ("continued to end",  "[S]\nX=a \\",                                             &[("S", "X", "a")]),
        ("windows",           "\u{feff}[S]\r\nX=a\\\r\nb\r\n",                           &[("S", "X", "a b")]),
        ("white space",       "  [S]  \n Some Thing   = words here  ",                   &[("S", "Some Thing", "words here")]),
        ("equals in value",   "[S]\nEnvironment=\"A=B\" 'C=D'\n",                        &[("S", "Environment", "\"A=B\" 'C=D'")]),
        ("other alphabets",   "[©]\nµ☃=ÇôrèÕ$",                                          &[("©", "µ☃", "ÇôrèÕ$")]),
        ("empty sections",    "[A]\n[B]\nx=1\n[C]\n",                                    &[("B", "x", "1")]),
    ];
    for (case, text, want) in cases {
        assert_eq!(options(&UnitFile::parse(text).unwrap()), *want, "{case}");
    }
}

#[test]
fn bad_files_are_refused_with_place_and_remedy() {
    #[rustfmt::skip]
    let cases = [
        ("[Unit\nDescription=Foo",       "line 1: \"[Unit\" is never closed; a section is a word in brackets on its own line, such as [Service]"),
        ("\n[Unit] pants\nDescription=", "line 2: \" pants\" stands after the section; a section is a word in brackets on its own line, such as [Service]"),
        ("[Unit]\nDescription\n",        "line 2: \"Description\" is no option; options are written Name=value"),
        ("[Unit]\n=5\n",                 "line 2: \"\" is no name of an option; options are written Name=value"),
        ("ExecStart=/x\n[Service]\n",    "line 1: \"ExecStart=/x\" stands outside of a section; start with a section such as [Service]"),
        ("# nothing\n",                  "unit file: no options; a unit needs at least one section with one option"),
        ("",                             "unit file: no options; a unit needs at least one section with one option"),
        ("[S]\nx=\0\n",                  "line 2: the value of x holds a line break or a zero byte; write the value on one line"),
    ];
    for (text, want) in cases {
        assert_eq!(UnitFile::parse(text).unwrap_err().to_string(), want, "{text:?}");
    }
    let large = format!("[S]\nx={}", "a".repeat(MAX_UNIT_FILE_BYTES));
    assert!(UnitFile::parse(&large).unwrap_err().to_string().contains("256 KiB"));
    let many = format!("[S]\n{}", "x=\n".repeat(4097));
    assert!(UnitFile::parse(&many).unwrap_err().to_string().contains("4096"));
}

#[test]
fn options_that_would_not_come_back_are_refused() {
    let option = |section: &str, name: &str, value: &str| UnitOption {
        section: section.to_owned(),
        name: name.to_owned(),
        value: value.to_owned(),
    };
    #[rustfmt::skip]
    let cases = [
        ("fine",            option("Service", "ExecStart", " /bin/x "), true),
        ("no section",      option("",        "ExecStart", "/bin/x"),   false),
        ("closing bracket", option("A]",      "ExecStart", "/bin/x"),   false),
        ("no name",         option("Service", " ",         "/bin/x"),   false),
        ("name with equals", option("Service", "a=b",      "/bin/x"),   false),
        ("name as comment", option("Service", "#a",        "/bin/x"),   false),
        ("two lines",       option("Service", "a",         "x\n[Unit]"), false),
        ("swallows",        option("Service", "a",         "x\\"),      false),
    ];
    for (case, option, want) in cases {
        let file = UnitFile::from_options(&[option]);
        assert_eq!(file.is_ok(), want, "{case}: {file:?}");
    }
}

#[test]
fn the_hash_is_fleets() {
    let file = UnitFile::parse("[Service]\nExecStart=/bin/sleep 100\n").unwrap();
    assert_eq!(file.hash().to_string(), "1c6fb6f3684bafb0c173d8b8b957ceff031180c1");
    assert_eq!(file.hash().short(), "1c6fb6f");
    let other = UnitFile::parse("# x\n[Service]\n ExecStart = /bin/sleep 100").unwrap();
    assert_eq!(other.hash(), file.hash());
}

#[test]
fn x_fleet_is_read_and_refused_as_fleet_does() {
    let id = "0123456789abcdef0123456789abcdef";
    #[rustfmt::skip]
    let cases = [
        ("Typo=1",                                       Some("unrecognized requirement in [X-Fleet] section: \"Typo\"")),
        (&format!("MachineID={id}"),                     None),
        (&format!("X-ConditionMachineID={id}"),          None),
        ("MachineID=01234567",                           Some("MachineID \"01234567\" is no machine id; right would be the 32 hex digits that list-machines --full shows")),
        ("MachineMetadata=region",                       Some("MachineMetadata \"region\" is not of the form key=value")),
        ("MachineMetadata=\"a=1\"   \"b=2\"",            None),
        ("MachineMetadata=a=1 b=2",                      Some("MachineMetadata \"a=1 b=2\" is not of the form key=value")),
        ("MachineOf=db",                                 Some("MachineOf \"db\": unit name must contain \".\"")),
        ("Conflicts=[",                                  Some("Conflicts: bad character class in pattern \"[\"; right would be [a-z] or [^0-9]")),
        (&format!("MachineID={id}\nMachineOf=a.service"), Some("MachineID cannot be used with Peers")),
        (&format!("MachineID={id}\nConflicts=a.service"), Some("MachineID cannot be used with Conflicts")),
        (&format!("MachineID={id}\nGlobal=yes"),         Some("MachineID cannot be used with Global")),
        ("Global=on\nMachineOf=a.service",               Some("Global cannot be used with Peers")),
        ("Global=1\nReplaces=a.service",                 Some("Global cannot be used with Replaces")),
        ("Global=true\nConflicts=a.service",             None),
        ("Conflicts=a\nReplaces=b",                      Some("Conflicts cannot be used with Replaces")),
        ("MachineOf=a@1.service\nX-Conflicts=%p@*.service", Some("unresolvable requirements: peer \"a@1.service\" matches conflict \"a@*.service\"")),
    ];
    for (x_fleet, want) in cases {
        let file = UnitFile::parse(&format!("[X-Fleet]\n{x_fleet}\n")).unwrap();
        let got = Requirements::of(&name("a@2"), &file).err().map(|error| error.to_string());
        assert_eq!(got.as_deref(), want, "{x_fleet}");
    }
}

#[test]
fn specifiers_stand_for_the_instance_and_wait_in_the_template() {
    let text = "[X-Fleet]\nMachineMetadata=rack=%i\nMachineOf=%p-data@%i.service\nGlobal=true\nGlobal=no\n";
    let file = UnitFile::parse(text).unwrap();
    let asks = Requirements::of(&name("web@7"), &file).unwrap();
    assert_eq!(asks.metadata_text(), "rack=7");
    assert!(asks.machine_of.contains(&name("web-data@7")));
    assert!(!asks.global, "the last one wins");
    let template = Requirements::of(&name("web@"), &file).unwrap();
    assert_eq!(template, Requirements::default());
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "([\\[\\]=\\\\#; \n\rA-c]|\\PC){0,200}") {
        if let Ok(file) = UnitFile::parse(&text) {
            let again = UnitFile::parse(&file.render()).unwrap();
            prop_assert_eq!(again.render(), file.render());
            prop_assert_eq!(again.hash(), file.hash());
            let from_options = UnitFile::from_options(file.options()).unwrap();
            prop_assert_eq!(from_options, file);
        }
    }

    #[test]
    fn any_options_are_kept_or_refused(
        raw in prop::collection::vec(("[\\[\\]A-B \n]{0,3}", "[=#\\[a-b \n]{0,3}", "[\\\\a-b=\n \r]{0,5}"), 0..6),
    ) {
        let options: Vec<UnitOption> = raw
            .into_iter()
            .map(|(section, name, value)| UnitOption { section, name, value })
            .collect();
        if let Ok(file) = UnitFile::from_options(&options) {
            let mut kept = file.options().to_vec();
            let mut back = UnitFile::parse(&file.render()).unwrap().options().to_vec();
            kept.sort_by(|a, b| a.section.cmp(&b.section));
            back.sort_by(|a, b| a.section.cmp(&b.section));
            prop_assert_eq!(kept, back);
        }
    }
}
