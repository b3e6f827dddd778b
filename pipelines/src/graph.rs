//! The graph of tables: who reads whom, in which order they can load, and what `--only` selects. Knows names only.

use std::collections::{BTreeMap, BTreeSet};

/// For each table, the tables that it reads. Names are `layer.name`.
pub type Graph = BTreeMap<String, BTreeSet<String>>;

/// Every table after those that it reads; among equals by name. `Err` is a cycle, in reading order, its first member repeated at the end.
pub fn order(graph: &Graph) -> Result<Vec<String>, Vec<String>> {
    let mut done: Vec<String> = vec![];
    let mut state: BTreeMap<&str, bool> = BTreeMap::new(); // false: on the way down, true: done
    for name in graph.keys() {
        let mut path = vec![];
        visit(name, graph, &mut state, &mut path, &mut done)?;
    }
    Ok(done)
}

fn visit<'a>(
    name: &'a str,
    graph: &'a Graph,
    state: &mut BTreeMap<&'a str, bool>,
    path: &mut Vec<&'a str>,
    done: &mut Vec<String>,
) -> Result<(), Vec<String>> {
    match state.get(name) {
        Some(true) => return Ok(()),
        Some(false) => {
            let start = path.iter().position(|n| *n == name).unwrap_or(0);
            return Err(path[start..].iter().chain([&name]).map(|n| (*n).to_owned()).collect());
        }
        None => {}
    }
    let Some(reads) = graph.get(name) else { return Ok(()) };
    state.insert(name, false);
    path.push(name);
    for upstream in reads {
        visit(upstream, graph, state, path, done)?;
    }
    path.pop();
    state.insert(name, true);
    done.push(name.to_owned());
    Ok(())
}

/// The tables that a selection names: `silver.orders`, or `silver.orders+` for it and all that reads it, directly or not.
/// `Err` is the name that no table has.
pub fn select(graph: &Graph, only: &[String]) -> Result<BTreeSet<String>, String> {
    if only.is_empty() {
        return Ok(graph.keys().cloned().collect());
    }
    let mut chosen = BTreeSet::new();
    for word in only {
        let (name, downstream) = match word.strip_suffix('+') {
            Some(name) => (name, true),
            None => (word.as_str(), false),
        };
        if !graph.contains_key(name) {
            return Err(name.to_owned());
        }
        chosen.insert(name.to_owned());
        let mut grown = downstream;
        while grown {
            let more: Vec<String> = graph
                .iter()
                .filter(|(n, reads)| !chosen.contains(*n) && reads.iter().any(|r| chosen.contains(r) && reaches(graph, name, r)))
                .map(|(n, _)| n.clone())
                .collect();
            grown = !more.is_empty();
            chosen.extend(more);
        }
    }
    Ok(chosen)
}

/// Whether `to` is `from` or reads it, directly or not.
fn reaches(graph: &Graph, from: &str, to: &str) -> bool {
    from == to || graph.get(to).is_some_and(|reads| reads.iter().any(|r| reaches(graph, from, r)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(edges: &[(&str, &[&str])]) -> Graph {
        edges.iter().map(|(n, r)| ((*n).to_owned(), r.iter().map(|s| (*s).to_owned()).collect())).collect()
    }

    #[test]
    fn tables_come_after_what_they_read() {
        let g = graph(&[("gold.a", &["silver.b", "silver.c"]), ("silver.b", &["silver.c"]), ("silver.c", &[])]);
        assert_eq!(order(&g).unwrap(), ["silver.c", "silver.b", "gold.a"]);
    }

    #[test]
    fn a_cycle_is_shown_whole() {
        let g = graph(&[("gold.a", &["gold.b"]), ("gold.b", &["gold.c"]), ("gold.c", &["gold.b"])]);
        assert_eq!(order(&g).unwrap_err(), ["gold.b", "gold.c", "gold.b"]);
    }

    #[test]
    fn only_selects_one_table_or_all_downstream() {
        let g = graph(&[("a.x", &[]), ("b.y", &["a.x"]), ("c.z", &["b.y"]), ("d.w", &["a.v"]), ("a.v", &[])]);
        let names =
            |only: &[&str]| select(&g, &only.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()).unwrap().into_iter().collect::<Vec<_>>();
        assert_eq!(names(&["b.y"]), ["b.y"]);
        assert_eq!(names(&["a.x+"]), ["a.x", "b.y", "c.z"]);
        assert_eq!(names(&["a.x+", "a.v"]), ["a.v", "a.x", "b.y", "c.z"]);
        assert_eq!(names(&[]).len(), 5);
        assert_eq!(select(&g, &["nope".into()]), Err("nope".into()));
    }
}
