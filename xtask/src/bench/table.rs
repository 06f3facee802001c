//! Aligned columns, for a terminal and for Markdown alike.

use std::fmt::Write;

/// A table. Columns of numbers are aligned to the right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// The head of each column.
    pub head: Vec<String>,
    /// As many cells in each row.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// As Markdown, which can be read in a terminal as it is.
    #[must_use]
    pub fn markdown(&self) -> String {
        let widths: Vec<usize> = (0..self.head.len())
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                let widths = cells
                    .chain(self.head.get(column))
                    .map(|c| c.chars().count());
                widths.max().unwrap_or(0).max(3)
            })
            .collect();
        // A figure begins with a digit; what is not there is a dash.
        let is_text = |cell: &String| cell.starts_with(char::is_alphabetic);
        let left: Vec<bool> = (0..self.head.len())
            .map(|column| {
                let mut cells = self.rows.iter().filter_map(|row| row.get(column));
                column == 0 || cells.any(is_text)
            })
            .collect();
        let mut text = String::new();
        let mut line = |cells: &[String]| {
            for (column, width) in widths.iter().enumerate() {
                let cell = cells.get(column).map_or("", String::as_str);
                let _ = match left.get(column) {
                    Some(true) => write!(text, "| {cell:<width$} "),
                    _ => write!(text, "| {cell:>width$} "),
                };
            }
            text.push_str("|\n");
        };
        line(&self.head);
        let rule: Vec<String> = widths
            .iter()
            .enumerate()
            .map(|(column, width)| match left.get(column) {
                Some(true) => "-".repeat(*width),
                _ => "-".repeat(width - 1) + ":",
            })
            .collect();
        line(&rule);
        for row in &self.rows {
            line(row);
        }
        text
    }
}

/// A number with as many digits as mean something.
#[must_use]
pub fn number(value: f64) -> String {
    let digits = match value.abs() {
        large if large >= 999.5 => 0,
        middle if middle >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let cells = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect();
        let table = Table {
            head: cells(&["what", "size", "µs", "where"]),
            rows: vec![
                cells(&["map", "1", "1.25", "riscv64"]),
                cells(&["unmap and map", "64", "–", "here"]),
            ],
        };
        let expected = "\
| what          | size |   µs | where   |
| ------------- | ---: | ---: | ------- |
| map           |    1 | 1.25 | riscv64 |
| unmap and map |   64 |    – | here    |
";
        assert_eq!(table.markdown(), expected);
    }

    #[test]
    fn numbers_have_a_few_digits() {
        for (value, expected) in [
            (0.0, "0.00"),
            (1.234, "1.23"),
            (9.996, "10.0"),
            (63.25, "63.2"),
            (411.04, "411.0"),
            (999.6, "1000"),
            (12345.6, "12346"),
        ] {
            assert_eq!(number(value), expected);
        }
    }
}
