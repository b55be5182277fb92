//! Tables: each row is one line, and none is wider than the screen. What is too wide is cut with an ellipsis, the widest column first; whole
//! it is in JSON.

use super::screen::{self, Tone};
use comfy_table::{Attribute, Cell, Color, Table, TableComponent, presets};
use std::fmt;

/// No column is cut below this.
const LEAST: usize = 4;
/// A blank before each cell, and one between two of them.
const PADDING: usize = 2;

/// A table without lines between its rows.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
    columns: usize,
    colour: bool,
}

impl Rows {
    pub(crate) fn new(head: &[&str]) -> Rows {
        let head = head.iter().map(|title| (*title).to_owned()).collect();
        Rows { head, rows: Vec::new(), columns: screen::columns(), colour: screen::colour() }
    }

    /// Never in colour: it is not for stdout.
    pub(crate) fn plain(mut self) -> Rows {
        self.colour = false;
        self
    }

    /// One more row, with a cell for each column.
    pub(crate) fn add<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        let cells: Vec<String> = cells.into_iter().map(Into::into).collect();
        assert_eq!(cells.len(), self.head.len(), "a row has a cell for each column");
        self.rows.push(cells);
    }

    /// How many characters each column gets.
    fn widths(&self) -> Vec<usize> {
        let lines = || std::iter::once(&self.head).chain(&self.rows);
        let widest = |column: usize| lines().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let mut widths: Vec<usize> = (0..self.head.len()).map(widest).collect();
        let room = (self.columns + 1).saturating_sub(PADDING * widths.len());
        while widths.iter().sum::<usize>() > room {
            // Of equally wide ones the first: names stand there, and numbers behind them.
            let Some(widest) = widths.iter_mut().rev().max().filter(|width| **width > LEAST) else { break };
            *widest -= 1;
        }
        widths
    }

    fn cell(&self, column: usize, text: &str, width: usize) -> Cell {
        let cell = Cell::new(cut(text, width));
        if !self.colour || self.head[column] != "state" {
            return cell;
        }
        match Tone::of(text) {
            Tone::Good => cell.fg(Color::Green),
            Tone::Warn => cell.fg(Color::Yellow),
            Tone::Bad => cell.fg(Color::Red).add_attribute(Attribute::Bold),
            Tone::Plain => cell,
        }
    }
}

impl fmt::Display for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = self.widths();
        let mut table = Table::new();
        table.load_preset(presets::UTF8_HORIZONTAL_ONLY).remove_style(TableComponent::HorizontalLines);
        table.remove_style(TableComponent::MiddleIntersections).remove_style(TableComponent::LeftBorderIntersections);
        table.remove_style(TableComponent::RightBorderIntersections).force_no_tty();
        if self.colour {
            table.enforce_styling();
        }
        table.set_header(self.head.iter().zip(&widths).map(|(title, width)| cut(title, *width)));
        for row in &self.rows {
            let cells = row.iter().zip(&widths).enumerate();
            table.add_row(cells.map(|(column, (text, width))| self.cell(column, text, *width)));
        }
        for column in table.column_iter_mut() {
            column.set_padding((1, 0));
        }
        write!(f, "{table}")
    }
}

/// So many characters of a text at most, the last one an ellipsis if it was longer. A cell is one line, whatever stands in it.
pub(crate) fn cut(text: &str, width: usize) -> String {
    let line = |c: char| if c.is_control() { ' ' } else { c };
    if text.chars().count() <= width {
        return text.chars().map(line).collect();
    }
    text.chars().take(width.saturating_sub(1)).map(line).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn width(table: &Rows) -> usize {
        table.to_string().lines().map(|line| line.chars().count()).max().unwrap_or(0)
    }

    #[test]
    fn the_widest_column_is_cut_first() {
        let mut rows = Rows::new(&["volume", "state", "epoch"]);
        rows.add(["v".repeat(100), "catching_up".to_owned(), u64::MAX.to_string()]);
        let text = rows.to_string();
        assert!(width(&rows) == 80 && text.contains("v…") && text.contains("catching_up"), "{text}");
        assert!(text.contains(&u64::MAX.to_string()) && text.lines().count() == 5, "{text}");
    }

    #[test]
    fn a_table_of_wide_columns_fits_and_one_that_fits_is_left_alone() {
        let head: Vec<&str> = vec!["a title of some length"; 9];
        let mut rows = Rows::new(&head);
        rows.add(vec!["0123456789012345678901234567890123456789"; 9]);
        assert!(width(&rows) <= 80, "{rows}");
        let mut rows = Rows::new(&["node", "state"]);
        rows.add(["n1", "up"]);
        assert!(!rows.to_string().contains('…'), "{rows}");
    }

    #[test]
    fn a_cell_is_one_line() {
        assert_eq!(cut("one\ntwo\x1b[31m", 40), "one two [31m");
        assert_eq!((cut("abcdef", 4).as_str(), cut("abcd", 4).as_str()), ("abc…", "abcd"));
    }

    #[test]
    fn colour_is_for_states_alone() {
        let mut rows = Rows::new(&["volume", "state"]);
        rows.add(["failed", "failed"]);
        assert!(!rows.to_string().contains('\x1b'));
        rows.colour = true;
        let text = rows.to_string();
        assert!(text.matches('\x1b').count() >= 2 && text.contains(" failed "), "{text:?}");
        assert!(!rows.plain().to_string().contains('\x1b'));
    }
}
