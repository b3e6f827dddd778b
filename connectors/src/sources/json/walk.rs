//! One pass over each record along the plan, predicting that its keys come in the order of the records before it.
//! Writes views into columns. Knows no file and no record boundary.

mod message;

use std::borrow::Cow;

use arrow::buffer::Buffer;

use super::keys::{Cursor, Keys};
use super::plan::{Plan, Take};
use super::scan::{MAX_DEPTH, Scanner, Stop, Token, unescape};
use super::views::{self, GIVEN_NULL, NULL, Side};

/// Names of unknown keys that are remembered.
pub const MAX_UNKNOWN: usize = 256;
const UNKNOWN: u32 = u32::MAX;

/// Rows under construction over one block.
#[derive(Debug)]
pub struct Walk<'a> {
    plan: &'a Plan,
    pub scan: Scanner<'a>,
    objects: Vec<Object>,
    /// Numbers objects, records and elements.
    stamp: u64,
    /// The record or element being read.
    unit: u64,
    /// Row that values are written to.
    row: usize,
    /// First row of the record.
    pub base: usize,
    /// Rows that the columns have room for, and how many a new batch begins with.
    capacity: usize,
    first_capacity: usize,
    pub columns: Vec<Vec<u128>>,
    /// Columns with several places: the unit in which one was found last, and its rank.
    found: Vec<(u64, u16)>,
    /// Scalars where an object or array should be, for columns that may yet be found elsewhere: column, node, token, position.
    missed: Vec<(usize, usize, Token, usize)>,
    exploded: usize,
    pub side: Side,
    rescue: bool,
    pub rescued: Vec<u128>,
    /// The record's leftovers, as far as read.
    spare: Vec<u8>,
    /// Leftovers of the exploded elements: text, and the range of each.
    pieces: Vec<u8>,
    ranges: Vec<(usize, usize)>,
    /// Where in `spare` an element's leftovers go.
    splice: Option<usize>,
    /// Top-level keys that no column wants: of the record, and of all whole records.
    fresh: Vec<String>,
    pub unknown: Vec<String>,
    learned: bool,
    /// Write [`GIVEN_NULL`] where a record gives null.
    pub tell_nulls: bool,
    /// The record is a message that stands for no row; and how many of them there were.
    tombstone: bool,
    pub tombstones: u64,
}

/// What is remembered of the object at one node.
#[derive(Debug, Default)]
struct Object {
    keys: Keys,
    /// By child: the stamp of the object in which it was met last.
    met: Vec<u64>,
}

impl<'a> Walk<'a> {
    pub fn new(plan: &'a Plan, block: &'a [u8], rescue: bool, first_capacity: usize) -> Self {
        Walk {
            plan,
            scan: Scanner::new(block, block.len()),
            objects: plan.nodes.iter().map(|n| Object { keys: Keys::default(), met: vec![0; n.children.len()] }).collect(),
            stamp: 0,
            unit: 0,
            row: 0,
            base: 0,
            capacity: 0,
            first_capacity,
            columns: vec![vec![]; plan.names.len()],
            found: vec![(0, 0); plan.names.len()],
            missed: vec![],
            exploded: 0,
            side: Side::default(),
            rescue,
            rescued: vec![],
            spare: vec![],
            pieces: vec![],
            ranges: vec![],
            splice: None,
            fresh: vec![],
            unknown: vec![],
            learned: false,
            tell_nulls: false,
            tombstone: false,
            tombstones: 0,
        }
    }

    /// Reads the object at the cursor into rows from `base` on. Only [`Walk::keep`] makes them rows; [`Walk::drop_record`] takes them back.
    #[inline(always)]
    pub fn record(&mut self) -> Result<(), Stop> {
        self.begin();
        if let Some(messages) = &self.plan.messages {
            return self.message(messages);
        }
        if self.scan.peek() != b'{' {
            let at = self.scan.pos;
            let token = self.scan.skip(0)?;
            return Err(self.scan.stop_at(at, format!("{} where a record should be, which is an object,", token.name())));
        }
        self.object(0, 0)?;
        if !self.missed.is_empty() {
            self.settle(0)?;
        }
        Ok(())
    }

    /// Forgets the record before: to be called for a row that no record is read for.
    #[inline(always)]
    pub fn begin(&mut self) {
        self.row = self.base;
        self.grow(self.base);
        self.stamp += 1;
        self.unit = self.stamp;
        self.exploded = 0;
        if self.rescue {
            self.spare.clear();
            self.pieces.clear();
            self.ranges.clear();
            self.splice = None;
        }
    }

    /// Makes the record's rows final and says how many there are.
    #[inline(always)]
    pub fn keep(&mut self) -> usize {
        if self.tombstone {
            self.tombstone = false;
            self.tombstones += 1;
            return 0;
        }
        let rows = self.exploded.max(1);
        if rows > 1 {
            for column in &self.plan.base {
                let cells = &mut self.columns[*column][self.base..self.base + rows];
                let first = cells[0];
                cells.fill(first);
            }
        }
        if self.rescue {
            self.keep_rescued(rows);
        }
        if self.learned {
            self.learned = false;
            for name in self.fresh.drain(..) {
                if self.unknown.len() < MAX_UNKNOWN && !self.unknown.contains(&name) {
                    self.unknown.push(name);
                }
            }
        }
        self.base += rows;
        rows
    }

    fn keep_rescued(&mut self, rows: usize) {
        if self.spare.len() <= "{}".len() {
            self.rescued.resize(self.rescued.len() + rows, NULL);
            return;
        }
        let spare = &self.spare;
        match self.splice {
            None => {
                let view = self.side.put(|out| out.extend_from_slice(spare));
                self.rescued.resize(self.rescued.len() + rows, view);
            }
            Some(at) => {
                for (start, end) in &self.ranges {
                    let piece = if start == end { b"null" } else { &self.pieces[*start..*end] };
                    let view = self.side.put(|out| {
                        out.extend_from_slice(&spare[..at]);
                        out.extend_from_slice(piece);
                        out.extend_from_slice(&spare[at..]);
                    });
                    self.rescued.push(view);
                }
            }
        }
    }

    /// Takes back what a broken record wrote, and makes its one row empty but final.
    pub fn drop_record(&mut self) {
        let last = self.row.max(self.base + self.exploded.saturating_sub(1));
        for column in &mut self.columns {
            column[self.base..=last].fill(NULL);
        }
        self.tombstone = false;
        self.missed.clear();
        self.fresh.clear();
        if self.learned {
            // Keys of a record that is none are not worth predicting, and their names were not noted.
            self.learned = false;
            self.objects.iter_mut().for_each(|o| o.keys.forget());
        }
        if self.rescue {
            self.rescued.push(NULL);
        }
        self.base += 1;
    }

    /// Hands over the finished rows and begins anew.
    pub fn take(&mut self) -> (Vec<Vec<u128>>, Vec<u128>) {
        let rows = std::mem::take(&mut self.base);
        self.capacity = 0;
        let columns = self.columns.iter_mut().map(|column| {
            let mut full = std::mem::take(column);
            full.truncate(rows);
            full
        });
        (columns.collect(), std::mem::take(&mut self.rescued))
    }

    pub fn buffers(&mut self, block: &Buffer) -> std::sync::Arc<[Buffer]> {
        self.side.take(block)
    }

    #[inline(always)]
    fn grow(&mut self, row: usize) {
        if row >= self.capacity {
            self.grow_slow(row);
        }
    }

    #[cold]
    fn grow_slow(&mut self, row: usize) {
        self.capacity = (row + 1).max(self.capacity * 2).max(self.first_capacity);
        for column in &mut self.columns {
            column.resize(self.capacity, NULL);
        }
    }

    /// Reads an object; `depth` containers are open around it. Says whether it left something for `_rescued`.
    fn object(&mut self, n: usize, depth: u32) -> Result<bool, Stop> {
        if depth >= MAX_DEPTH {
            return Err(self.scan.stop_at(self.scan.pos, "nested deeper than 128"));
        }
        if self.rescue {
            self.spare.push(b'{');
        }
        let mut kept = false;
        let plan = self.plan;
        let children = &plan.nodes[n].children;
        self.scan.pos += 1;
        self.scan.space();
        if self.scan.peek() == b'}' {
            self.scan.pos += 1;
        } else {
            self.stamp += 1;
            let stamp = self.stamp;
            let mut cursor = self.objects[n].keys.start();
            loop {
                let (child, start, end) = self.key(n, &mut cursor)?;
                if child == UNKNOWN {
                    let value = self.scan.pos;
                    self.scan.skip(depth + 1)?;
                    if self.rescue {
                        self.leave_key(start, end);
                        self.spare.extend_from_slice(&self.scan.block[value..self.scan.pos]);
                        kept = true;
                    }
                } else {
                    let met = &mut self.objects[n].met[child as usize];
                    if *met == stamp {
                        return Err(self.duplicate(children[child as usize], start));
                    }
                    *met = stamp;
                    let child = children[child as usize];
                    if let Some(take) = plan.nodes[child].leaf {
                        self.leaf(take, depth + 1)?;
                    } else if self.rescue {
                        let mark = self.spare.len();
                        self.leave_key(start, end);
                        if self.branch(child, depth + 1)? {
                            kept = true;
                        } else {
                            self.cut_spare(mark);
                        }
                    } else {
                        self.branch(child, depth + 1)?;
                    }
                }
                self.scan.space();
                match self.scan.peek() {
                    b',' => {
                        self.scan.pos += 1;
                        self.scan.space();
                    }
                    b'}' => {
                        self.scan.pos += 1;
                        break;
                    }
                    _ => return Err(self.scan.stop("expected ',' or '}'", "cut off inside an object")),
                }
            }
        }
        if self.rescue {
            self.spare.push(b'}');
        }
        Ok(kept)
    }

    /// Takes back what was put aside since `mark`, with the place for the elements' leftovers if it lies there.
    fn cut_spare(&mut self, mark: usize) {
        self.spare.truncate(mark);
        self.splice = self.splice.filter(|at| *at <= mark);
    }

    #[cold]
    fn duplicate(&mut self, node: usize, at: usize) -> Stop {
        let what = format!("duplicate key '{}'", self.plan.nodes[node].shown);
        self.scan.stop_at(at, what)
    }

    fn leave_key(&mut self, start: usize, end: usize) {
        if self.spare.last() != Some(&b'{') {
            self.spare.push(b',');
        }
        self.spare.extend_from_slice(&self.scan.block[start..end]);
        self.spare.push(b':');
    }

    /// Passes over a key and its colon: which child it is, and where the key's text is.
    #[inline(always)]
    fn key(&mut self, n: usize, cursor: &mut Cursor) -> Result<(u32, usize, usize), Stop> {
        let start = self.scan.pos;
        match self.objects[n].keys.predicted(cursor, &self.scan.block[start..]) {
            Some((child, length)) => Ok(self.past_key(child, start, length)),
            None => self.key_elsewhere(n, cursor),
        }
    }

    #[inline(always)]
    fn past_key(&mut self, child: u32, start: usize, length: usize) -> (u32, usize, usize) {
        self.scan.pos = start + length;
        self.scan.space();
        (child, start, start + length - 1)
    }

    /// The key is not the predicted one: look at those behind it, then read it.
    #[inline(never)]
    fn key_elsewhere(&mut self, n: usize, cursor: &mut Cursor) -> Result<(u32, usize, usize), Stop> {
        let start = self.scan.pos;
        let block = self.scan.block;
        if let Some((child, length)) = self.objects[n].keys.ahead(cursor, &block[start..]) {
            return Ok(self.past_key(child, start, length));
        }
        let (start, end) = self.scan.key()?;
        let key = &block[start..end];
        if let Some(child) = self.objects[n].keys.find(cursor, key) {
            return Ok((child, start, end));
        }
        let mut name = Cow::Borrowed(&key[1..key.len() - 1]);
        if memchr::memchr(b'\\', &name).is_some() {
            let mut out = vec![];
            unescape(&name, &mut out);
            name = out.into();
        }
        let child = self.plan.nodes[n].keys.get(name.as_ref()).copied().unwrap_or(UNKNOWN);
        let learned = self.objects[n].keys.learn(cursor, key, child);
        self.learned |= learned;
        if n == 0 && child == UNKNOWN && self.unknown.len() < MAX_UNKNOWN {
            self.fresh.push(String::from_utf8_lossy(&name).into_owned());
            self.learned = true;
        }
        Ok((child, start, end))
    }

    /// Reads a value that one column takes whole.
    #[inline(always)]
    fn leaf(&mut self, take: Take, depth: u32) -> Result<(), Stop> {
        let start = self.scan.pos;
        let token = self.scan.skip(depth)?;
        self.write(take, token, start);
        Ok(())
    }

    /// Writes the value from `start` to the cursor.
    #[inline(always)]
    fn write(&mut self, take: Take, token: Token, start: usize) {
        if let Some(rank) = take.rank
            && !self.prefer(take.column, rank, token)
        {
            return;
        }
        let block = self.scan.block;
        let end = self.scan.pos;
        let view = match token {
            Token::Null if self.tell_nulls => GIVEN_NULL,
            Token::Null => return,
            Token::String { escaped } if !take.json => {
                if escaped {
                    self.side.put(|out| unescape(&block[start + 1..end - 1], out))
                } else {
                    views::slice(block, start + 1, end - 1)
                }
            }
            _ => views::slice(block, start, end),
        };
        self.columns[take.column][self.row] = view;
    }

    /// A column with several places takes the best of them that is not null.
    fn prefer(&mut self, column: usize, rank: u16, token: Token) -> bool {
        let (unit, best) = &mut self.found[column];
        let rank = if token == Token::Null { u16::MAX } else { rank };
        if *unit == self.unit && *best <= rank {
            return false;
        }
        *unit = self.unit;
        *best = rank;
        true
    }

    /// Reads a value that has columns below it, or is exploded, or is taken by several columns.
    fn branch(&mut self, n: usize, depth: u32) -> Result<bool, Stop> {
        let plan = self.plan;
        let node = &plan.nodes[n];
        if let Some(take) = node.leaf {
            self.leaf(take, depth)?;
            return Ok(false);
        }
        let start = self.scan.pos;
        let mut kept = false;
        let token = match (self.scan.peek(), node.element) {
            (b'[', Some(element)) => {
                kept = self.explode(element, depth)?;
                Token::Array
            }
            (b'{', None) if !node.children.is_empty() => {
                kept = self.object(n, depth)?;
                Token::Object
            }
            (b'[', None) if !node.items.is_empty() => {
                kept = self.array(n, depth)?;
                Token::Array
            }
            _ => {
                let token = self.scan.skip(depth)?;
                if token == Token::Null && self.tell_nulls {
                    for (column, _) in &node.below {
                        let cell = &mut self.columns[*column][self.row];
                        *cell = if *cell == NULL { GIVEN_NULL } else { *cell };
                    }
                }
                if token != Token::Null && node.takes.is_empty() {
                    if self.rescue {
                        self.spare.extend_from_slice(&self.scan.block[start..self.scan.pos]);
                        kept = true;
                    } else if node.element.is_some() {
                        return Err(self.no_inside(n, token, start));
                    } else {
                        for (column, several) in &node.below {
                            if !several {
                                return Err(self.no_inside(n, token, start));
                            }
                            self.missed.push((*column, n, token, start));
                        }
                    }
                }
                token
            }
        };
        for take in &node.takes {
            self.write(*take, token, start);
        }
        // What a column took whole is not left over.
        Ok(kept && node.takes.is_empty())
    }

    /// A value that should have an inside has none, and a column wanted something there.
    #[cold]
    fn no_inside(&mut self, n: usize, token: Token, at: usize) -> Stop {
        let node = &self.plan.nodes[n];
        let wanted = if node.element.is_some() || !node.items.is_empty() { "an array" } else { "an object" };
        let what = format!("'{}' is {}, not {wanted},", node.shown, token.name());
        self.scan.stop_at(at, what)
    }

    /// The unit is read: columns that missed one place must have been found at another.
    fn settle(&mut self, from: usize) -> Result<(), Stop> {
        for i in from..self.missed.len() {
            let (column, node, token, at) = self.missed[i];
            if self.found[column].0 != self.unit {
                return Err(self.no_inside(node, token, at));
            }
        }
        self.missed.truncate(from);
        Ok(())
    }

    /// Reads an array of which some elements are wanted by their index.
    fn array(&mut self, n: usize, depth: u32) -> Result<bool, Stop> {
        if depth >= MAX_DEPTH {
            return Err(self.scan.stop_at(self.scan.pos, "nested deeper than 128"));
        }
        let plan = self.plan;
        let items = &plan.nodes[n].items;
        let (rescue, mut kept) = (self.rescue, false);
        if rescue {
            self.spare.push(b'[');
        }
        self.scan.pos += 1;
        self.scan.space();
        if self.scan.peek() == b']' {
            self.scan.pos += 1;
        } else {
            let mut index = 0;
            loop {
                if rescue && index > 0 {
                    self.spare.push(b',');
                }
                let (start, mark) = (self.scan.pos, self.spare.len());
                match items.iter().find(|(i, _)| *i == index) {
                    Some((_, child)) => {
                        let left = self.branch(*child, depth + 1)?;
                        kept |= left;
                        if rescue && !left {
                            // Places keep their index: what a column has taken is null here.
                            self.cut_spare(mark);
                            self.spare.extend_from_slice(b"null");
                        }
                    }
                    None => {
                        self.scan.skip(depth + 1)?;
                        if rescue {
                            self.spare.extend_from_slice(&self.scan.block[start..self.scan.pos]);
                            kept = true;
                        }
                    }
                }
                index += 1;
                if self.element_ends()? {
                    break;
                }
            }
        }
        if rescue {
            self.spare.push(b']');
        }
        Ok(kept)
    }

    /// Reads the array that is exploded: element i goes to row base + i.
    fn explode(&mut self, element: usize, depth: u32) -> Result<bool, Stop> {
        if depth >= MAX_DEPTH {
            return Err(self.scan.stop_at(self.scan.pos, "nested deeper than 128"));
        }
        let unit = self.unit;
        let mut kept = false;
        std::mem::swap(&mut self.spare, &mut self.pieces);
        self.scan.pos += 1;
        self.scan.space();
        if self.scan.peek() == b']' {
            self.scan.pos += 1;
        } else {
            loop {
                self.row = self.base + self.exploded;
                self.grow(self.row);
                self.stamp += 1;
                self.unit = self.stamp;
                let (missed, mark) = (self.missed.len(), self.spare.len());
                let left = self.branch(element, depth + 1)?;
                self.settle(missed)?;
                self.exploded += 1;
                if self.rescue {
                    if !left {
                        self.cut_spare(mark);
                    }
                    self.ranges.push((mark, self.spare.len()));
                    kept |= left;
                }
                if self.element_ends()? {
                    break;
                }
            }
        }
        std::mem::swap(&mut self.spare, &mut self.pieces);
        self.row = self.base;
        self.unit = unit;
        if kept {
            self.splice = Some(self.spare.len());
        }
        Ok(kept)
    }

    fn element_ends(&mut self) -> Result<bool, Stop> {
        self.scan.space();
        match self.scan.peek() {
            b',' => {
                self.scan.pos += 1;
                self.scan.space();
                Ok(false)
            }
            b']' => {
                self.scan.pos += 1;
                Ok(true)
            }
            _ => Err(self.scan.stop("expected ',' or ']'", "cut off inside an array")),
        }
    }
}
