//! What to read where: the columns' paths as one tree, so that a record is walked once. Knows no bytes.

use std::collections::HashMap;

use smelt_engine::error::Complaint;
use smelt_engine::{Error, Result};

use super::path::{self, Step};
use super::{JsonColumn, JsonKind, JsonOptions};
use crate::sources::feed::envelope_path;

/// A column that reads the value at a node.
#[derive(Debug, Clone, Copy)]
pub struct Take {
    pub column: usize,
    pub json: bool,
    /// The column may be found at several places; the lowest rank wins.
    pub rank: Option<u16>,
}

/// A place in a record that some column needs.
#[derive(Debug, Default)]
pub struct Node {
    /// How messages call the place.
    pub shown: String,
    pub takes: Vec<Take>,
    /// The only take of a place under which nothing else is wanted: the hot case.
    pub leaf: Option<Take>,
    /// Children of an object, by key.
    pub children: Vec<usize>,
    pub keys: HashMap<Vec<u8>, u32>,
    /// Children of an array, by index.
    pub items: Vec<(usize, usize)>,
    /// Each element of this array is a row, read by that node.
    pub element: Option<usize>,
    /// Columns that lie below: whom to name when the value has no inside. True: it has other places to be.
    pub below: Vec<(usize, bool)>,
}

/// The tree; node 0 is the record.
#[derive(Debug, Default)]
pub struct Plan {
    pub nodes: Vec<Node>,
    pub names: Vec<String>,
    /// Columns read from the record, not from the element of an exploded array.
    pub base: Vec<usize>,
    /// Records are Debezium's messages, and node 0 is the row's image.
    pub messages: Option<Messages>,
}

/// What is read of a message beside the row's image.
#[derive(Debug)]
pub struct Messages {
    /// The node of the envelope.
    pub envelope: usize,
    /// The node of a flattened row, where `$.source.lsn` is the key `__source_lsn`.
    pub flat: usize,
    /// Columns that take the envelope's `op`.
    pub op: Vec<usize>,
}

/// Builds the tree.
///
/// # Errors
/// `Pipeline` at `columns.NAME.path` or `explode`: a path that cannot be read.
pub fn plan(columns: &[JsonColumn], options: &JsonOptions) -> Result<Plan> {
    let mut complaints = vec![];
    let mut plan = Plan { nodes: vec![Node::default()], names: columns.iter().map(|c| c.name.clone()).collect(), ..Plan::default() };
    let explode = options.explode.as_deref().and_then(|text| match path::parse(text) {
        Ok(steps) => Some(steps),
        Err(why) => {
            complaints.push(Complaint::at(["explode"], format!("'{text}' is not a JSON path: {why}")).help("write it like order.items"));
            None
        }
    });
    if let Some(steps) = &explode {
        let array = plan.insert(steps);
        let element = plan.node(format!("{}[]", path::show(steps)));
        plan.nodes[array].element = Some(element);
    }
    if options.debezium {
        plan.messages = Some(Messages { envelope: plan.node(String::new()), flat: plan.node(String::new()), op: vec![] });
    }
    for (column, wanted) in columns.iter().enumerate() {
        if let (Some(messages), Some(steps)) = (&mut plan.messages, wanted.path.as_deref().and_then(envelope_path)) {
            let (envelope, flat) = (messages.envelope, messages.flat);
            if steps == [Step::Key("op".into())] {
                messages.op.push(column);
            }
            let take = Take { column, json: wanted.kind == JsonKind::Json, rank: None };
            plan.take_at(flat, &flattened(&steps), take, false);
            plan.take_at(envelope, &steps, take, false);
            continue;
        }
        let ways = match &wanted.path {
            Some(text) => match path::parse(text) {
                Ok(steps) => vec![steps],
                Err(why) => {
                    let complaint = Complaint::at(["columns", &wanted.name, "path"], format!("'{text}' is not a JSON path: {why}"));
                    complaints.push(complaint.help("write it like user.id or items[0].sku"));
                    continue;
                }
            },
            None if options.flatten => path::ways(&wanted.name),
            None => vec![vec![Step::Key(wanted.name.clone())]],
        };
        let before = wanted.was.iter().flat_map(|old| if options.flatten { path::ways(old) } else { vec![vec![Step::Key(old.clone())]] });
        let ways: Vec<Vec<Step>> = ways.into_iter().chain(before).collect();
        let inside: Vec<Vec<Step>> = match &explode {
            Some(array) => ways.iter().filter(|way| way.starts_with(array)).cloned().collect(),
            None => vec![],
        };
        if let (Some(array), Some(_)) = (&explode, &wanted.path)
            && inside.iter().any(|way| matches!(way.get(array.len()), Some(Step::Index(_))))
        {
            let complaint = Complaint::at(["columns", &wanted.name, "path"], "an index into the array that explode turns into rows");
            complaints.push(complaint.help(format!("leave the index out: {}.…", path::show(array))));
            continue;
        }
        let ways = if inside.is_empty() {
            plan.base.push(column);
            ways
        } else {
            inside
        };
        let several = ways.len() > 1;
        for (rank, way) in ways.iter().enumerate() {
            let rank = several.then_some(rank as u16);
            plan.take_at(0, way, Take { column, json: wanted.kind == JsonKind::Json, rank }, several);
        }
    }
    if !complaints.is_empty() {
        return Err(Error::Pipeline(complaints));
    }
    for node in &mut plan.nodes {
        if let [take] = node.takes[..]
            && node.children.is_empty()
            && node.items.is_empty()
            && node.element.is_none()
        {
            node.leaf = Some(take);
        }
    }
    Ok(plan)
}

/// Where `ExtractNewRecordState` puts a field of the envelope: `source.lsn` at `__source_lsn`.
fn flattened(steps: &[Step]) -> Vec<Step> {
    let keys = steps.iter().map(|step| match step {
        Step::Key(key) => key.clone(),
        Step::Index(index) => index.to_string(),
    });
    vec![Step::Key(format!("__{}", keys.collect::<Vec<_>>().join("_")))]
}

impl Plan {
    fn node(&mut self, shown: String) -> usize {
        self.nodes.push(Node { shown, ..Node::default() });
        self.nodes.len() - 1
    }

    /// Has `take` read what lies below `root` at `way`.
    fn take_at(&mut self, root: usize, way: &[Step], take: Take, several: bool) {
        let mut at = root;
        for step in way {
            at = self.step(at, step);
            at = self.nodes[at].element.unwrap_or(at);
            self.nodes[at].below.push((take.column, several));
        }
        self.nodes[at].below.pop();
        self.nodes[at].takes.push(take);
    }

    fn insert(&mut self, steps: &[Step]) -> usize {
        steps.iter().fold(0, |at, step| self.step(at, step))
    }

    /// The child of `at`.
    fn step(&mut self, at: usize, step: &Step) -> usize {
        let name = path::show(std::slice::from_ref(step));
        let shown = match (&self.nodes[at].shown, step) {
            (above, Step::Key(_)) if !above.is_empty() => format!("{above}.{name}"),
            (above, _) => format!("{above}{name}"),
        };
        match step {
            Step::Key(key) => {
                if let Some(child) = self.nodes[at].keys.get(key.as_bytes()) {
                    return self.nodes[at].children[*child as usize];
                }
                let child = self.node(shown);
                let node = &mut self.nodes[at];
                node.keys.insert(key.clone().into_bytes(), node.children.len() as u32);
                node.children.push(child);
                child
            }
            Step::Index(index) => {
                if let Some((_, child)) = self.nodes[at].items.iter().find(|(i, _)| i == index) {
                    return *child;
                }
                let child = self.node(shown);
                self.nodes[at].items.push((*index, child));
                child
            }
        }
    }
}
