package strict

import (
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// check compares a parsed text with the struct that it is for and joins all
// faults by line.
func (p *Positions) check(tree map[string]any, into any) error {
	v := reflect.TypeOf(into)
	if v == nil || v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return fmt.Errorf("strict: decode into %T: want a pointer to a struct", into)
	}
	c := checker{pos: p}
	c.table("", tree, v.Elem())
	slices.SortStableFunc(c.faults, func(a, b *Error) int { return a.Line - b.Line })
	var all []error
	for _, f := range c.faults {
		all = append(all, f)
	}
	return errors.Join(all...)
}

type checker struct {
	pos    *Positions
	faults []*Error
}

func (c *checker) fault(key, format string, args ...any) {
	c.faults = append(c.faults, &Error{
		File: c.pos.file, Line: c.pos.lines[key], Key: key, Problem: cut(fmt.Sprintf(format, args...))})
}

func (c *checker) table(path string, tree map[string]any, t reflect.Type) {
	known := fields(t)
	for key, value := range tree {
		at := join(path, key)
		field, ok := known[key]
		if !ok {
			c.fault(at, "unknown key%s", suggestion(key, known))
			continue
		}
		c.value(at, value, field)
	}
}

var (
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
	tomlUnmarshaler = reflect.TypeFor[toml.Unmarshaler]()
	durationType    = reflect.TypeFor[time.Duration]()
	timeType        = reflect.TypeFor[time.Time]()
)

// value checks one value against the type of its field.
func (c *checker) value(path string, value any, t reflect.Type) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if reflect.PointerTo(t).Implements(tomlUnmarshaler) || t.Kind() == reflect.Interface {
		return
	}
	if t == timeType {
		if _, ok := value.(time.Time); !ok {
			c.fault(path, "want a date and time, not %s", kindOf(value))
		}
		return
	}
	if t == durationType {
		s, ok := value.(string)
		if !ok {
			c.fault(path, `want a duration such as "5s", not %s`, kindOf(value))
		} else if _, err := time.ParseDuration(s); err != nil {
			c.fault(path, `want a duration such as "5s", not %q`, s)
		}
		return
	}
	if reflect.PointerTo(t).Implements(textUnmarshaler) {
		s, ok := value.(string)
		if !ok {
			c.fault(path, "want a string, not %s", kindOf(value))
			return
		}
		probe := reflect.New(t).Interface().(encoding.TextUnmarshaler)
		if err := probe.UnmarshalText([]byte(s)); err != nil {
			c.fault(path, "%v", err)
		}
		return
	}
	c.plain(path, value, t)
}

func (c *checker) plain(path string, value any, t reflect.Type) {
	zero := reflect.Zero(t)
	switch t.Kind() {
	case reflect.String:
		if _, ok := value.(string); !ok {
			c.fault(path, "want a string, not %s", kindOf(value))
		}
	case reflect.Bool:
		if _, ok := value.(bool); !ok {
			c.fault(path, "want true or false, not %s", kindOf(value))
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		if n, ok := value.(int64); !ok {
			c.fault(path, "want a whole number, not %s", kindOf(value))
		} else if zero.OverflowInt(n) {
			c.fault(path, "%d is out of range", n)
		}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		if n, ok := value.(int64); !ok {
			c.fault(path, "want a whole number, not %s", kindOf(value))
		} else if n < 0 || zero.OverflowUint(uint64(n)) {
			c.fault(path, "%d is out of range", n)
		}
	case reflect.Float32, reflect.Float64:
		switch value.(type) {
		case float64, int64:
		default:
			c.fault(path, "want a number, not %s", kindOf(value))
		}
	case reflect.Struct:
		if tree, ok := value.(map[string]any); ok {
			c.table(path, tree, t)
		} else {
			c.fault(path, "want a table, not %s", kindOf(value))
		}
	case reflect.Map:
		tree, ok := value.(map[string]any)
		if !ok {
			c.fault(path, "want a table, not %s", kindOf(value))
		}
		for key, v := range tree {
			c.value(join(path, key), v, t.Elem())
		}
	case reflect.Slice, reflect.Array:
		c.list(path, value, t)
	default:
		c.fault(path, "has a field of type %s, which no file can fill", t)
	}
}

func (c *checker) list(path string, value any, t reflect.Type) {
	elem := t.Elem()
	for elem.Kind() == reflect.Pointer {
		elem = elem.Elem()
	}
	var items []any
	switch v := value.(type) {
	case []any:
		items = v
	case []map[string]any:
		for _, item := range v {
			items = append(items, item)
		}
	default:
		want := "a list"
		if elem.Kind() == reflect.Struct && !reflect.PointerTo(elem).Implements(textUnmarshaler) {
			want = fmt.Sprintf("tables [[%s]]", path)
		}
		c.fault(path, "want %s, not %s", want, kindOf(value))
		return
	}
	for i, item := range items {
		c.value(fmt.Sprintf("%s[%d]", path, i), item, t.Elem())
	}
}

// fields are the keys that a struct takes.
func fields(t reflect.Type) map[string]reflect.Type {
	known := map[string]reflect.Type{}
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("toml"), ",")
		switch {
		case name == "-" || (!f.IsExported() && !f.Anonymous):
		case name == "" && f.Anonymous && f.Type.Kind() == reflect.Struct:
			for k, v := range fields(f.Type) {
				known[k] = v
			}
		case name == "":
			known[f.Name] = f.Type
		default:
			known[name] = f.Type
		}
	}
	return known
}

// suggestion names the key that was perhaps meant: the same letters in another
// case or with another separator.
func suggestion(key string, known map[string]reflect.Type) string {
	fold := func(s string) string {
		return strings.ToLower(strings.NewReplacer("_", "", "-", "", " ", "").Replace(s))
	}
	for name := range known {
		if fold(name) == fold(key) {
			return fmt.Sprintf(" (%q is known)", name)
		}
	}
	return ""
}

func kindOf(value any) string {
	switch value.(type) {
	case string:
		return "a string"
	case bool:
		return "true or false"
	case int64:
		return "a whole number"
	case float64:
		return "a number with a fraction"
	case time.Time:
		return "a date"
	case map[string]any:
		return "a table"
	case []any, []map[string]any:
		return "a list"
	}
	return fmt.Sprintf("%T", value)
}
