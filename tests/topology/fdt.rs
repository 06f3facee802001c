//! A small writer of flattened device trees (Devicetree Specification, chapter 5), for trees that
//! no compiler would write.

/// A node under construction.
#[derive(Clone, Debug, Default)]
pub struct Node {
    pub name: String,
    pub properties: Vec<(String, Vec<u8>)>,
    pub children: Vec<Node>,
}

impl Node {
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }

    pub fn bytes(mut self, name: &str, value: &[u8]) -> Self {
        self.properties.push((name.into(), value.into()));
        self
    }

    pub fn cells(self, name: &str, cells: &[u32]) -> Self {
        let value: Vec<u8> = cells.iter().flat_map(|cell| cell.to_be_bytes()).collect();
        self.bytes(name, &value)
    }

    pub fn strings(self, name: &str, strings: &[&str]) -> Self {
        let value: Vec<u8> = strings
            .iter()
            .flat_map(|string| string.bytes().chain([0]))
            .collect();
        self.bytes(name, &value)
    }

    pub fn child(mut self, child: Node) -> Self {
        self.children.push(child);
        self
    }

    /// Replaces a property, or adds it.
    pub fn set(&mut self, name: &str, value: &[u8]) {
        self.properties.retain(|(old, _)| old != name);
        self.properties.push((name.into(), value.into()));
    }

    pub fn set_cells(&mut self, name: &str, cells: &[u32]) {
        let value: Vec<u8> = cells.iter().flat_map(|cell| cell.to_be_bytes()).collect();
        self.set(name, &value);
    }

    pub fn remove(&mut self, name: &str) {
        self.properties.retain(|(old, _)| old != name);
    }

    /// The node at a path of child names.
    pub fn at(&mut self, path: &[&str]) -> &mut Node {
        path.iter().fold(self, |node, name| {
            node.children
                .iter_mut()
                .find(|child| child.name == *name)
                .unwrap_or_else(|| panic!("no node {name}"))
        })
    }

    /// The tree with this node as its root, as a blob of version 17.
    pub fn blob(&self) -> Vec<u8> {
        let mut structure = Vec::new();
        let mut strings = Vec::new();
        self.write(&mut structure, &mut strings);
        word(&mut structure, 9);
        let (header, reservations) = (40, 16);
        let at = header + reservations;
        let strings_at = at + structure.len();
        let total = strings_at + strings.len();
        let fields = [
            0xd00d_feed,
            total,
            at,
            strings_at,
            header,
            17,
            16,
            0,
            strings.len(),
            structure.len(),
        ];
        let mut blob = Vec::new();
        for field in fields {
            word(&mut blob, field as u32);
        }
        blob.resize(at, 0);
        blob.extend(structure);
        blob.extend(strings);
        blob
    }

    fn write(&self, structure: &mut Vec<u8>, strings: &mut Vec<u8>) {
        word(structure, 1);
        structure.extend(self.name.bytes());
        structure.push(0);
        pad(structure);
        for (name, value) in &self.properties {
            word(structure, 3);
            word(structure, value.len() as u32);
            let name = [name.as_bytes(), &[0]].concat();
            let known = strings.windows(name.len()).position(|w| *w == name[..]);
            let offset = known.unwrap_or_else(|| {
                let end = strings.len();
                strings.extend(&name);
                end
            });
            word(structure, offset as u32);
            structure.extend(value);
            pad(structure);
        }
        for child in &self.children {
            child.write(structure, strings);
        }
        word(structure, 2);
    }
}

fn word(into: &mut Vec<u8>, word: u32) {
    into.extend(word.to_be_bytes());
}

fn pad(into: &mut Vec<u8>) {
    into.resize(into.len().next_multiple_of(4), 0);
}
