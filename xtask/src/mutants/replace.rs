//! What takes the place of an operator, and of the body of a function.

use std::collections::HashMap;

use quote::ToTokens;
use syn::{BinOp, Expr, GenericArgument, PathArguments, ReturnType, Type, TypePath, UnOp};

/// How many values a function returns in turn, at the most.
const MOST_VALUES: usize = 4;

/// An operator as it is written, and what is written in its place in turn.
#[must_use]
pub fn of_operator(op: &BinOp) -> Option<(&'static str, &'static [&'static str])> {
    Some(match op {
        BinOp::Eq(_) => ("==", &["!="]),
        BinOp::Ne(_) => ("!=", &["=="]),
        BinOp::Lt(_) => ("<", &["<=", "==", ">"]),
        BinOp::Le(_) => ("<=", &["<", ">"]),
        BinOp::Gt(_) => (">", &[">=", "==", "<"]),
        BinOp::Ge(_) => (">=", &[">", "<"]),
        BinOp::And(_) => ("&&", &["||"]),
        BinOp::Or(_) => ("||", &["&&"]),
        BinOp::Add(_) => ("+", &["-", "*"]),
        BinOp::Sub(_) => ("-", &["+", "/"]),
        BinOp::Mul(_) => ("*", &["+", "/"]),
        BinOp::Div(_) => ("/", &["%", "*"]),
        BinOp::Rem(_) => ("%", &["/", "+"]),
        BinOp::BitAnd(_) => ("&", &["|"]),
        BinOp::BitOr(_) => ("|", &["&"]),
        BinOp::BitXor(_) => ("^", &["|"]),
        BinOp::Shl(_) => ("<<", &[">>"]),
        BinOp::Shr(_) => (">>", &["<<"]),
        BinOp::AddAssign(_) => ("+=", &["-=", "*="]),
        BinOp::SubAssign(_) => ("-=", &["+=", "/="]),
        BinOp::MulAssign(_) => ("*=", &["+=", "/="]),
        BinOp::DivAssign(_) => ("/=", &["%=", "*="]),
        BinOp::RemAssign(_) => ("%=", &["/=", "+="]),
        BinOp::BitAndAssign(_) => ("&=", &["|="]),
        BinOp::BitOrAssign(_) => ("|=", &["&="]),
        BinOp::BitXorAssign(_) => ("^=", &["|="]),
        BinOp::ShlAssign(_) => ("<<=", &[">>="]),
        BinOp::ShrAssign(_) => (">>=", &["<<="]),
        _ => return None,
    })
}

/// The unary operators that are left out in turn.
#[must_use]
pub fn is_left_out(op: &UnOp) -> Option<&'static str> {
    match op {
        UnOp::Not(_) => Some("!"),
        UnOp::Neg(_) => Some("-"),
        _ => None,
    }
}

/// Whether `let` takes part in a condition: then its `&&` is not an operator.
#[must_use]
pub fn has_let(expr: &Expr) -> bool {
    match expr {
        Expr::Let(_) => true,
        Expr::Binary(binary) => has_let(&binary.left) || has_let(&binary.right),
        _ => false,
    }
}

/// Names for types, without parameters, such as that of a result.
pub type Aliases = HashMap<String, Type>;

/// What a function returns in turn in place of what it computes, by its type alone. Those that the
/// compiler does not take are left out later.
#[must_use]
pub fn of_body(output: &ReturnType, aliases: &Aliases) -> Vec<String> {
    let mut values = match output {
        ReturnType::Default => vec!["()".into()],
        ReturnType::Type(_, of) => of_type(of, aliases),
    };
    values.truncate(MOST_VALUES);
    values
}

fn of_type(of: &Type, aliases: &Aliases) -> Vec<String> {
    match of {
        Type::Path(path) => of_path(path, aliases),
        Type::Tuple(tuple) => tuple
            .elems
            .iter()
            .fold(vec!["(".into()], |heads, elem| {
                let values = of_type(elem, aliases);
                let mut longer = Vec::new();
                for head in &heads {
                    longer.extend(values.iter().map(|value| format!("{head}{value}, ")));
                }
                longer.truncate(MOST_VALUES);
                longer
            })
            .into_iter()
            .map(|text| text + ")")
            .collect(),
        Type::Array(array) => {
            let len = array.len.to_token_stream();
            let values = of_type(&array.elem, aliases);
            values.iter().map(|v| format!("[{v}; {len}]")).collect()
        }
        Type::Reference(reference) if reference.mutability.is_none() => match &*reference.elem {
            Type::Path(path) if path.path.is_ident("str") => {
                vec!["\"\"".into(), "\"xyzzy\"".into()]
            }
            Type::Slice(_) => vec!["&[]".into()],
            _ => Vec::new(),
        },
        Type::Paren(inner) => of_type(&inner.elem, aliases),
        _ => Vec::new(),
    }
}

fn of_path(path: &TypePath, aliases: &Aliases) -> Vec<String> {
    let Some(last) = path.path.segments.last() else {
        return Vec::new();
    };
    let name = last.ident.to_string();
    let inner: Vec<&Type> = match &last.arguments {
        PathArguments::AngleBracketed(list) => {
            let types = list.args.iter().filter_map(|argument| match argument {
                GenericArgument::Type(of) => Some(of),
                _ => None,
            });
            types.collect()
        }
        _ => Vec::new(),
    };
    let inside = |wrap: &dyn Fn(&String) -> String| -> Vec<String> {
        let first = inner.first();
        let values = first.map_or_else(Vec::new, |of| of_type(of, aliases));
        values.iter().map(wrap).collect()
    };
    match name.as_str() {
        "bool" => vec!["true".into(), "false".into()],
        "u8" | "u16" | "u32" | "u64" | "u128" | "usize" => vec!["0".into(), "1".into()],
        "i8" | "i16" | "i32" | "i64" | "i128" | "isize" => {
            vec!["0".into(), "1".into(), "-1".into()]
        }
        "Option" => {
            let mut values = vec!["None".into()];
            values.extend(inside(&|v| format!("Some({v})")));
            values
        }
        // That of `core::fmt`.
        "Result" if inner.is_empty() => vec!["Ok(())".into()],
        "Result" => inside(&|v| format!("Ok({v})")),
        "Vec" => {
            let mut values = vec!["alloc::vec::Vec::new()".into()];
            values.extend(inside(&|v| format!("alloc::vec![{v}]")));
            values
        }
        "Box" => inside(&|v| format!("alloc::boxed::Box::new({v})")),
        _ => match aliases.get(&name) {
            Some(of) if inner.is_empty() => of_type(of, aliases),
            _ => vec!["Default::default()".into()],
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(output: &str) -> Vec<String> {
        let output: ReturnType = syn::parse_str(output).unwrap();
        let result = syn::parse_str("Result<(), Error>").unwrap();
        of_body(&output, &Aliases::from([("Outcome".into(), result)]))
    }

    #[test]
    fn a_body_is_replaced_by_values_of_its_type() {
        assert_eq!(values(""), ["()"]);
        assert_eq!(values("-> bool"), ["true", "false"]);
        assert_eq!(values("-> Option<u8>"), ["None", "Some(0)", "Some(1)"]);
        assert_eq!(values("-> Result<bool, E>"), ["Ok(true)", "Ok(false)"]);
        assert_eq!(values("-> fmt::Result"), ["Ok(())"]);
        assert_eq!(values("-> Outcome"), ["Ok(())"]);
        assert_eq!(values("-> [u8; 3]"), ["[0; 3]", "[1; 3]"]);
        assert_eq!(values("-> (bool, Self)").len(), 2);
        assert_eq!(values("-> impl Iterator<Item = u8>"), [""; 0]);
        assert_eq!(values("-> !"), [""; 0]);
    }

    #[test]
    fn conditions_with_let_are_known() {
        let parse = |text| syn::parse_str::<Expr>(text).unwrap();
        let Expr::If(with) = parse("if let Some(x) = y && x > 0 && z {}") else {
            panic!("not an `if`");
        };
        assert!(has_let(&with.cond));
        assert!(!has_let(&parse("a && b || c")));
    }
}
