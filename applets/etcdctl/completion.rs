//! `completion`: scripts that complete command words in a shell.

use super::args::{Flag, switch};
use super::failure::Failure;
use super::{COMMANDS, Context, emit};

pub const COMPLETION: &[Flag] = &[switch("no-descriptions", "accepted, without effect: there are none")];

pub async fn completion(context: &Context) -> Result<(), Failure> {
    let script = match context.args.rest.as_slice() {
        [shell] if shell == "bash" => bash(),
        // zsh reads bash's completions.
        [shell] if shell == "zsh" => format!("autoload -U +X bashcompinit && bashcompinit\n{}", bash()),
        [shell] if shell == "fish" => fish(),
        _ => return Err(Failure::args("completion needs the name of a shell: bash, zsh or fish")),
    };
    emit(&script);
    Ok(())
}

/// The first words of all commands, and the second words of each.
fn words() -> (Vec<&'static str>, Vec<(&'static str, Vec<&'static str>)>) {
    let mut first: Vec<&str> = vec!["help", "version"];
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for command in COMMANDS {
        let word = command.words[0];
        if !first.contains(&word) {
            first.push(word);
        }
        if let Some(second) = command.words.get(1) {
            match groups.iter_mut().find(|(group, _)| *group == word) {
                Some((_, seconds)) => seconds.push(second),
                None => groups.push((word, vec![second])),
            }
        }
    }
    first.sort_unstable();
    (first, groups)
}

fn bash() -> String {
    let (first, groups) = words();
    let cases: String = groups
        .iter()
        .map(|(group, seconds)| format!("    {group}) words=\"{}\" ;;\n", seconds.join(" ")))
        .collect();
    format!(
        "_etcdctl() {{\n  local words=\"\"\n  case \"${{COMP_WORDS[1]}}\" in\n{cases}  esac\n  [ \"$COMP_CWORD\" -eq 1 ] && words=\"{}\"\n  [ \"$COMP_CWORD\" -le 2 ] && COMPREPLY=($(compgen -W \"$words\" -- \"${{COMP_WORDS[COMP_CWORD]}}\"))\n}}\ncomplete -F _etcdctl etcdctl\n",
        first.join(" ")
    )
}

fn fish() -> String {
    let (first, groups) = words();
    let mut script = format!(
        "complete -c etcdctl -f\ncomplete -c etcdctl -n __fish_use_subcommand -a \"{}\"\n",
        first.join(" ")
    );
    for (group, seconds) in groups {
        script += &format!(
            "complete -c etcdctl -n \"__fish_seen_subcommand_from {group}\" -a \"{}\"\n",
            seconds.join(" ")
        );
    }
    script
}
