//! Paths into a JSON record: `user.id`, `items[0].sku`, `$.a.b`, `a."odd.key"`. Knows nothing of records.

use std::fmt::Write;

/// One step down.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    Key(String),
    Index(usize),
}

/// Ways of splitting one name at its underscores that are tried; the fewest cuts first.
const MAX_WAYS: usize = 64;

/// Reads a path. The error is a sentence for the user, without the path.
pub fn parse(path: &str) -> Result<Vec<Step>, String> {
    let mut rest = path.strip_prefix('$').map_or(path, |r| r.strip_prefix('.').unwrap_or(r));
    let mut steps = vec![];
    let mut key_may_follow = true;
    loop {
        if let Some(inside) = rest.strip_prefix('[') {
            let Some((index, after)) = inside.split_once(']') else {
                return Err("'[' is not closed".into());
            };
            if let Some(key) = index.strip_prefix(['"', '\'']).and_then(|k| k.strip_suffix(['"', '\''])) {
                steps.push(Step::Key(key.into()));
            } else {
                let index = index.parse().map_err(|_| format!("'{index}' is not an index; write a number, such as [0]"))?;
                steps.push(Step::Index(index));
            }
            rest = after;
            key_may_follow = false;
        } else if rest.is_empty() && !steps.is_empty() {
            return Ok(steps);
        } else {
            if !key_may_follow {
                rest = rest.strip_prefix('.').ok_or("expected '.' or '['")?;
            }
            let (key, after) = key(rest)?;
            steps.push(Step::Key(key));
            rest = after;
            key_may_follow = false;
        }
    }
}

fn key(rest: &str) -> Result<(String, &str), String> {
    if let Some(quoted) = rest.strip_prefix('"') {
        let mut key = String::new();
        let mut chars = quoted.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => return Ok((key, &quoted[at + 1..])),
                '\\' => key.extend(chars.next().map(|(_, c)| c)),
                c => key.push(c),
            }
        }
        return Err("a quoted key is not closed".into());
    }
    let end = rest.find(['.', '[', '"']).unwrap_or(rest.len());
    if end == 0 {
        return Err("a key is empty; write an empty or odd key in double quotes".into());
    }
    Ok((rest[..end].into(), &rest[end..]))
}

/// The path in text, keys quoted where they must be. `parse` reads it back.
pub fn show(steps: &[Step]) -> String {
    let mut text = String::new();
    for (i, step) in steps.iter().enumerate() {
        match step {
            // Writing to a String does not fail.
            Step::Index(n) => drop(write!(text, "[{n}]")),
            Step::Key(key) => {
                if i > 0 {
                    text.push('.');
                }
                if key.is_empty() || key.contains(['.', '[', '"', ']', '\\']) || (i == 0 && key.starts_with('$')) {
                    text.push('"');
                    text.push_str(&key.replace('\\', "\\\\").replace('"', "\\\""));
                    text.push('"');
                } else {
                    text.push_str(key);
                }
            }
        }
    }
    text
}

/// Every way of reading `name` as a nested key, split at its underscores: the exact key first, then the fewest cuts.
pub fn ways(name: &str) -> Vec<Vec<Step>> {
    let cuts: Vec<usize> = name.bytes().enumerate().filter(|(_, b)| *b == b'_').map(|(i, _)| i).collect();
    let mut found = vec![];
    for count in 0..=cuts.len() {
        choose(name, 0, &cuts, count, &mut vec![], &mut found);
        if found.len() >= MAX_WAYS {
            break;
        }
    }
    found.truncate(MAX_WAYS);
    found
}

fn choose(name: &str, from: usize, cuts: &[usize], count: usize, so_far: &mut Vec<Step>, found: &mut Vec<Vec<Step>>) {
    if found.len() >= MAX_WAYS {
        return;
    }
    if count == 0 {
        if from < name.len() {
            let mut steps = so_far.clone();
            steps.push(Step::Key(name[from..].into()));
            found.push(steps);
        }
        return;
    }
    for (i, cut) in cuts.iter().enumerate() {
        if *cut > from && cuts.len() - i >= count {
            so_far.push(Step::Key(name[from..*cut].into()));
            choose(name, cut + 1, &cuts[i + 1..], count - 1, so_far, found);
            so_far.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(path: &str) -> String {
        parse(path).map(|steps| show(&steps)).unwrap_or_else(|e| format!("error: {e}"))
    }

    #[test]
    fn reads_paths_and_writes_them_back() {
        assert_eq!(parse("items[0].sku").unwrap(), [Step::Key("items".into()), Step::Index(0), Step::Key("sku".into())]);
        assert_eq!(parse("$.a.b").unwrap(), parse("a.b").unwrap());
        assert_eq!(parse("$[1][2]").unwrap(), [Step::Index(1), Step::Index(2)]);
        assert_eq!(parse(r#"a."odd.key".c"#).unwrap()[1], Step::Key("odd.key".into()));
        assert_eq!(parse("a['odd.key']").unwrap()[1], Step::Key("odd.key".into()));
        for path in ["user.id", "items[0].sku", r#"a."odd.key""#, r#"a."q\"b""#, r#""$""#, "a b.c-d"] {
            assert_eq!(text(path), path);
        }
    }

    #[test]
    fn refuses_broken_paths() {
        for path in ["", "a..b", "a.", ".a", "a[", "a[x]", "a[0]b", r#"a."b"#, "$"] {
            assert!(text(path).starts_with("error"), "{path}: {}", text(path));
        }
    }

    #[test]
    fn splits_names_exact_first_and_not_without_end() {
        let shown: Vec<String> = ways("a_b_c").iter().map(|w| show(w)).collect();
        assert_eq!(shown, ["a_b_c", "a.b_c", "a_b.c", "a.b.c"]);
        assert_eq!(ways("_id").len(), 1);
        assert_eq!(ways("id_").len(), 1);
        assert_eq!(ways("a_b_c_d_e_f_g_h_i_j_k_l_m_n").len(), MAX_WAYS);
    }
}
