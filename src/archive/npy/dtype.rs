//! Computes the size of an array element from its dtype.
//!
//! Accepts the same dtypes as numpy.lib.format.descr_to_dtype: a string, a tuple of a dtype and a
//! shape, or a list of fields. The sizes of fields are added up: np.save writes padding as fields
//! of its own.

use super::{super::name::escaped, NpyError, literal::Value, product};

/// Size of one element in bytes; `None` if it holds Python objects.
///
/// # Errors
/// `Dtype` if NumPy has no such dtype; `TooLarge`.
pub(super) fn itemsize(descr: &Value<'_>) -> Result<Option<u64>, NpyError> {
    match descr {
        Value::Str(name) => {
            let unknown = || NpyError::Dtype(format!("'{}'", escaped(name.as_bytes())));
            scalar(name).ok_or_else(unknown)
        }
        Value::Tuple(parts) => match parts.as_slice() {
            [element, shape] => repeated(itemsize(element)?, shape),
            _ => Err(unknown("a tuple that is not a dtype and a shape")),
        },
        Value::List(fields) => {
            let mut total = Some(0_u64);
            for field in fields {
                total = match (total, field_size(field)?) {
                    (Some(total), Some(size)) => {
                        Some(total.checked_add(size).ok_or(NpyError::TooLarge)?)
                    }
                    _ => None,
                };
            }
            Ok(total)
        }
        _ => Err(unknown("neither a string, nor a tuple, nor a list")),
    }
}

fn unknown(what: &str) -> NpyError {
    NpyError::Dtype(format!("({what})"))
}

/// The size of a field: `(name, dtype)` or `(name, dtype, shape)`. The name may be `(title, name)`.
fn field_size(field: &Value<'_>) -> Result<Option<u64>, NpyError> {
    let Value::Tuple(parts) = field else {
        return Err(unknown("a field that is not a tuple"));
    };
    match parts.as_slice() {
        [Value::Str(_) | Value::Tuple(_), dtype] => itemsize(dtype),
        [Value::Str(_) | Value::Tuple(_), dtype, shape] => repeated(itemsize(dtype)?, shape),
        _ => Err(unknown("a field that is not a name, a dtype and maybe a shape")),
    }
}

/// The size in bytes of a subarray: `itemsize` times the product of `shape`.
fn repeated(itemsize: Option<u64>, shape: &Value<'_>) -> Result<Option<u64>, NpyError> {
    let lengths = match shape {
        Value::Int(len) => vec![*len],
        Value::Tuple(axes) => axes
            .iter()
            .map(|axis| match axis {
                Value::Int(len) => Ok(*len),
                _ => Err(unknown("a subarray whose shape is not of lengths")),
            })
            .collect::<Result<_, _>>()?,
        _ => return Err(unknown("a subarray without a shape")),
    };
    let Some(itemsize) = itemsize else { return Ok(None) };
    let count = product(&lengths).ok_or(NpyError::TooLarge)?;
    itemsize.checked_mul(count).map(Some).ok_or(NpyError::TooLarge)
}

/// The size in bytes of the dtype called `name` (the inner `None` for Python objects); `None` if
/// there is no such dtype.
fn scalar(name: &str) -> Option<Option<u64>> {
    let name = name.strip_prefix(['<', '>', '|', '=']).unwrap_or(name);
    let mut chars = name.chars();
    let kind = chars.next()?;
    let rest = chars.as_str();
    if let Some(unit) = rest.strip_prefix(['8']).filter(|_| matches!(kind, 'M' | 'm')) {
        let is_unit =
            unit.is_empty() || unit.len() > 2 && unit.starts_with('[') && unit.ends_with(']');
        return is_unit.then_some(Some(8));
    }
    if rest.is_empty() {
        return one_letter(kind);
    }
    if !rest.bytes().all(|byte| byte.is_ascii_digit()) {
        return full_name(name).map(Some);
    }
    let size: u64 = rest.parse().ok()?;
    match (kind, size) {
        ('b', 1) | ('i' | 'u', 1 | 2 | 4 | 8) => Some(Some(size)),
        // Long doubles of 32-bit x86 have 12 bytes, and complex ones 24.
        ('f', 2 | 4 | 8 | 12 | 16) | ('c', 8 | 16 | 24 | 32) => Some(Some(size)),
        ('S' | 'a' | 'V', _) => Some(Some(size)),
        // If the size does not fit in 64 bits, it saturates. `from_dict` then refuses the header,
        // unless the array is empty: the file would be too large.
        ('U', _) => Some(Some(size.saturating_mul(4))),
        ('O', 4 | 8) => Some(None),
        _ => full_name(name).map(Some),
    }
}

/// The size in bytes for a type character of NumPy, on 64-bit Linux.
fn one_letter(kind: char) -> Option<Option<u64>> {
    Some(Some(match kind {
        '?' | 'b' | 'B' | 'c' => 1,
        'h' | 'H' | 'e' => 2,
        'i' | 'I' | 'f' => 4,
        'l' | 'L' | 'q' | 'Q' | 'p' | 'P' | 'n' | 'N' | 'd' | 'F' | 'M' | 'm' => 8,
        'g' | 'D' => 16,
        'G' => 32,
        'S' | 'a' | 'U' | 'V' => 0,
        'O' => return Some(None),
        _ => return None,
    }))
}

/// The size in bytes for a full name that np.dtype accepts. Some writers put such names into
/// headers.
fn full_name(name: &str) -> Option<u64> {
    Some(match name {
        "bool" | "int8" | "uint8" => 1,
        "int16" | "uint16" | "float16" => 2,
        "int32" | "uint32" | "float32" => 4,
        "int" | "int64" | "uint64" | "float" | "float64" | "complex64" => 8,
        "complex" | "complex128" => 16,
        _ => return None,
    })
}
