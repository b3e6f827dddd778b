//! The walk over a Debezium message: the row's image, then what columns want of the envelope. Knows both trees of the plan.

use super::super::envelope::{Message, locate};
use super::super::plan::Messages;
use super::super::scan::Stop;
use super::Walk;

impl Walk<'_> {
    /// Reads Debezium's message at the cursor: the row's image, then what columns want of the envelope.
    pub(super) fn message(&mut self, messages: &Messages) -> Result<(), Stop> {
        let (image, at, node, depth) = match locate(&mut self.scan)? {
            Message::Tombstone => {
                self.tombstone = true;
                return Ok(());
            }
            Message::Envelope { at, image, depth } => (image, at, messages.envelope, depth),
            Message::Flat { at, op, depth } => {
                if let Some(op) = op {
                    let view = self.side.put_str(op);
                    messages.op.iter().for_each(|column| self.columns[*column][self.row] = view);
                }
                (Some(at), at, messages.flat, depth)
            }
        };
        let end = self.scan.pos;
        if let Some(image) = image {
            self.scan.pos = image;
            self.object(0, depth + u32::from(image != at))?;
        }
        if !self.plan.nodes[node].children.is_empty() {
            // What the contract does not name of an envelope is nobody's data.
            let rescue = std::mem::take(&mut self.rescue);
            self.scan.pos = at;
            let read = self.object(node, depth);
            self.rescue = rescue;
            read?;
        }
        if !self.missed.is_empty() {
            self.settle(0)?;
        }
        self.scan.pos = end;
        Ok(())
    }
}
